package pdf

// table is a grid of cells.
type table struct {
	box  box
	rows [][]string
}

func ruledTables(s *source, words []word) []*table { return nil }

func withoutTables(words []word, tables []*table) []word { return words }

// openTables returns the rows as items: lines, and tables that spacing alone shows.
func openTables(rows []row, rules []rule, rtl bool) []item {
	var out []item
	for i := range rows {
		l := makeLine(&rows[i])
		out = append(out, item{box: l.box, line: &l})
	}
	return out
}
