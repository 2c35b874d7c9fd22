package ooxml

import (
	"strings"
	"unicode"
)

// LaTeX returns an office formula (m:oMath, or anything that holds such
// elements) as LaTeX, without dollar signs.
func LaTeX(n *Node) string {
	return strings.TrimSpace(mathSpace(math(n)))
}

// mathSpace joins runs of spaces: LaTeX ignores them.
func mathSpace(s string) string { return strings.Join(strings.Fields(s), " ") }

func mathKids(n *Node) string {
	if n == nil {
		return ""
	}
	var b strings.Builder
	for _, k := range Resolve(n.Kids) {
		b.WriteString(math(k))
	}
	return b.String()
}

// arg returns the LaTeX of the child, without braces.
func arg(n *Node, name string) string { return strings.TrimSpace(mathKids(n.Kid(name))) }

// group puts braces around.
func group(s string) string { return "{" + s + "}" }

func math(n *Node) string {
	switch n.Name {
	case "m:r":
		return mathRun(n)
	case "m:f":
		num, den := arg(n, "m:num"), arg(n, "m:den")
		switch t, _ := n.Val("m:fPr", "m:type"); t {
		case "noBar":
			return `\genfrac{}{}{0pt}{}` + group(num) + group(den)
		case "lin":
			return group(num) + "/" + group(den)
		}
		return `\frac` + group(num) + group(den)
	case "m:sSup":
		return base(n) + "^" + group(arg(n, "m:sup"))
	case "m:sSub":
		return base(n) + "_" + group(arg(n, "m:sub"))
	case "m:sSubSup":
		return base(n) + "_" + group(arg(n, "m:sub")) + "^" + group(arg(n, "m:sup"))
	case "m:sPre":
		pre := ""
		if sub := arg(n, "m:sub"); sub != "" {
			pre = "_" + group(sub)
		}
		if sup := arg(n, "m:sup"); sup != "" {
			pre += "^" + group(sup)
		}
		if pre != "" {
			pre = "{}" + pre
		}
		return pre + base(n)
	case "m:rad":
		if deg := arg(n, "m:deg"); deg != "" && !n.On("m:radPr", "m:degHide") {
			return `\sqrt[` + deg + "]" + group(arg(n, "m:e"))
		}
		return `\sqrt` + group(arg(n, "m:e"))
	case "m:nary":
		return nary(n)
	case "m:d":
		return delimited(n)
	case "m:func":
		return mathFunc(n)
	case "m:limLow":
		return limit(n, "_")
	case "m:limUpp":
		return limit(n, "^")
	case "m:acc":
		return accent(n)
	case "m:bar":
		if pos, _ := n.Val("m:barPr", "m:pos"); pos == "top" {
			return `\overline` + group(arg(n, "m:e"))
		}
		return `\underline` + group(arg(n, "m:e"))
	case "m:groupChr":
		return groupChar(n)
	case "m:borderBox":
		return `\boxed` + group(arg(n, "m:e"))
	case "m:phant":
		if v, ok := n.Val("m:phantPr", "m:show"); ok && (v == "0" || v == "off" || v == "false") {
			return `\phantom` + group(arg(n, "m:e"))
		}
		return mathKids(n.Kid("m:e"))
	case "m:m":
		return matrix(n)
	case "m:eqArr":
		var rows []string
		for _, k := range n.Kids {
			if k.Name == "m:e" {
				rows = append(rows, strings.TrimSpace(mathKids(k)))
			}
		}
		if len(rows) == 1 {
			return rows[0]
		}
		return `\begin{aligned}` + strings.Join(rows, ` \\ `) + `\end{aligned}`
	case "w:del", "w:moveFrom", "m:ctrlPr":
		return ""
	}
	if strings.HasSuffix(n.Name, "Pr") {
		return ""
	}
	return mathKids(n)
}

// base is the part that a script hangs on; more than one symbol gets braces.
func base(n *Node) string {
	e := arg(n, "m:e")
	if len([]rune(e)) == 1 || e == "" {
		return e
	}
	if strings.HasPrefix(e, `\`) && !strings.ContainsAny(e[1:], ` {}\^_`) {
		return e
	}
	if k := n.Kid("m:e"); k != nil && len(k.Kids) == 1 && (k.Kids[0].Name == "m:d" || k.Kids[0].Name == "m:func") {
		return e
	}
	return group(e)
}

func limit(n *Node, op string) string {
	e, lim := arg(n, "m:e"), arg(n, "m:lim")
	if words(lim) {
		lim = `\text{` + lim + "}"
	}
	if f := function(e); f != "" {
		e = f
	}
	return e + op + group(lim)
}

// words reports whether s is a phrase and not symbols: its spaces would be lost.
func words(s string) bool {
	return strings.Contains(s, " ") && !strings.ContainsFunc(s, func(r rune) bool { return r != ' ' && !unicode.IsLetter(r) })
}

func mathFunc(n *Node) string {
	name := n.Kid("m:fName")
	f := strings.TrimSpace(mathKids(name))
	if g := function(f); g != "" {
		f = g
	}
	e := mathKids(n.Kid("m:e"))
	if strings.HasPrefix(f, `\`) && e != "" && !strings.HasPrefix(e, `\`) && !strings.HasPrefix(e, "{") && !strings.HasPrefix(e, "(") {
		return f + " " + e
	}
	return f + e
}

// functions are the names that LaTeX has commands for.
var functions = " arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max min Pr sec sin sinh sup tan tanh "

// function returns the command of a function's name; "" if s is no bare name.
func function(s string) string {
	if len(s) < 2 || strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f || !unicode.IsLetter(r) }) {
		return ""
	}
	if strings.Contains(functions, " "+s+" ") {
		return `\` + s
	}
	return `\operatorname{` + s + "}"
}

func nary(n *Node) string {
	op := `\int`
	if chr, ok := n.Val("m:naryPr", "m:chr"); ok {
		if op = strings.TrimSpace(symbols(chr)); op == "" {
			op = chr
		}
	}
	if sub := arg(n, "m:sub"); sub != "" && !n.On("m:naryPr", "m:subHide") {
		op += "_" + group(sub)
	}
	if sup := arg(n, "m:sup"); sup != "" && !n.On("m:naryPr", "m:supHide") {
		op += "^" + group(sup)
	}
	e := mathKids(n.Kid("m:e"))
	if last := op[len(op)-1]; last != '}' && e != "" {
		op += " "
	}
	return op + e
}

func delimited(n *Node) string {
	open, closing, sep := "(", ")", "|"
	if v, ok := n.Val("m:dPr", "m:begChr"); ok {
		open = v
	}
	if v, ok := n.Val("m:dPr", "m:endChr"); ok {
		closing = v
	}
	if v, ok := n.Val("m:dPr", "m:sepChr"); ok {
		sep = v
	}
	var parts []string
	for _, k := range n.Kids {
		if k.Name == "m:e" {
			parts = append(parts, strings.TrimSpace(mathKids(k)))
		}
	}
	return `\left` + fence(open) + strings.Join(parts, delimiter(sep)) + `\right` + fence(closing)
}

func fence(s string) string {
	if s == "" {
		return "."
	}
	return delimiter(s)
}

func delimiter(s string) string {
	switch s {
	case "{", "}":
		return `\` + s
	case "|", "(", ")", "[", "]", "/", "":
		return s
	case "‖", "∥":
		return `\|`
	case "⟨", "〈":
		return `\langle `
	case "⟩", "〉":
		return `\rangle `
	case "⌊":
		return `\lfloor `
	case "⌋":
		return `\rfloor `
	case "⌈":
		return `\lceil `
	case "⌉":
		return `\rceil `
	}
	return symbols(s)
}

var accents = map[string]string{
	"\u0300": "grave", "\u0301": "acute", "\u0302": "hat", "\u0303": "tilde", "\u0304": "bar", "\u0305": "overline",
	"\u0306": "breve", "\u0307": "dot", "\u0308": "ddot", "\u030a": "mathring", "\u030c": "check", "\u20d7": "vec",
	"\u20db": "dddot", "\u20d6": "overleftarrow", "\u20e1": "overleftrightarrow", "^": "hat", "~": "tilde", "¯": "bar",
	"→": "vec", "˙": "dot", "¨": "ddot", "ˇ": "check", "˘": "breve",
}

func accent(n *Node) string {
	cmd := "hat"
	if chr, ok := n.Val("m:accPr", "m:chr"); ok {
		if cmd = accents[chr]; cmd == "" {
			return `\overset` + group(strings.TrimSpace(symbols(chr))) + group(arg(n, "m:e"))
		}
	}
	e := arg(n, "m:e")
	if len([]rune(e)) > 1 && (cmd == "hat" || cmd == "tilde") {
		cmd = "wide" + cmd
	}
	return `\` + cmd + group(e)
}

func groupChar(n *Node) string {
	chr, ok := n.Val("m:groupChrPr", "m:chr")
	pos, _ := n.Val("m:groupChrPr", "m:pos")
	if !ok {
		chr = "⏟"
	}
	e := group(arg(n, "m:e"))
	switch chr {
	case "⏟":
		return `\underbrace` + e
	case "⏞":
		return `\overbrace` + e
	case "←", "⟵":
		if pos == "top" {
			return `\overleftarrow` + e
		}
		return `\underleftarrow` + e
	case "→", "⟶":
		if pos == "top" {
			return `\overrightarrow` + e
		}
		return `\underrightarrow` + e
	}
	if pos == "top" {
		return `\overset` + group(strings.TrimSpace(symbols(chr))) + e
	}
	return `\underset` + group(strings.TrimSpace(symbols(chr))) + e
}

func matrix(n *Node) string {
	var rows []string
	for _, r := range n.Kids {
		if r.Name != "m:mr" {
			continue
		}
		var cells []string
		for _, e := range r.Kids {
			if e.Name == "m:e" {
				cells = append(cells, strings.TrimSpace(mathKids(e)))
			}
		}
		rows = append(rows, strings.Join(cells, " & "))
	}
	return `\begin{matrix}` + strings.Join(rows, ` \\ `) + `\end{matrix}`
}

// mathRun is text: of formulas symbol by symbol, or ordinary text within one.
func mathRun(n *Node) string {
	var b strings.Builder
	for _, k := range n.Kids {
		if k.Name == "m:t" || k.Name == "w:t" {
			b.WriteString(k.Text)
		}
	}
	s := b.String()
	if s == "" {
		return ""
	}
	pr := n.Kid("m:rPr")
	if pr.On("m:nor") {
		if strings.TrimSpace(s) == "" {
			return " "
		}
		return `\text{` + texText(s) + "}"
	}
	t := symbols(s)
	if v, ok := pr.Val("m:scr"); ok {
		if f := map[string]string{"script": "mathcal", "fraktur": "mathfrak", "double-struck": "mathbb", "sans-serif": "mathsf", "monospace": "mathtt"}[v]; f != "" {
			return `\` + f + group(strings.TrimSpace(t))
		}
	}
	switch v, _ := pr.Val("m:sty"); v {
	case "b", "bi":
		return `\mathbf` + group(strings.TrimSpace(t))
	}
	return t
}

func texText(s string) string {
	return strings.NewReplacer(`\`, `\textbackslash `, "{", `\{`, "}", `\}`, "$", `\$`, "%", `\%`, "&", `\&`, "#", `\#`, "_", `\_`).Replace(s)
}

// symbols writes characters as LaTeX. A command is kept apart from a letter
// that follows by a space.
func symbols(s string) string {
	var b strings.Builder
	pending := false // the last thing written was a command of letters
	for _, r := range s {
		t := symbol(r)
		if pending && t != "" {
			if f := t[0]; f|0x20 >= 'a' && f|0x20 <= 'z' || t[0] >= '0' && t[0] <= '9' {
				b.WriteByte(' ')
			}
		}
		b.WriteString(t)
		pending = len(t) > 1 && t[0] == '\\' && t[len(t)-1]|0x20 >= 'a' && t[len(t)-1]|0x20 <= 'z'
	}
	if pending {
		b.WriteByte(' ')
	}
	return b.String()
}

func symbol(r rune) string {
	if cmd, ok := commands[r]; ok {
		return `\` + cmd
	}
	switch r {
	case '−', '–':
		return "-"
	case '′':
		return "'"
	case '″':
		return "''"
	case '\u2061', '\u2062', '\u2063', '\u2064', '\u200b':
		return ""
	case '\u00a0', '\u2002', '\u2003', '\u2004', '\u2005', '\u2006', '\u2009', '\u200a', '\u205f':
		return " "
	case '{', '}', '%', '$', '#', '_', '&':
		return `\` + string(r)
	case '\\':
		return `\backslash `
	}
	// Mathematical alphanumeric letters are plain letters in LaTeX's own fonts.
	switch {
	case r >= 0x1d434 && r <= 0x1d44d:
		return string('A' + r - 0x1d434)
	case r >= 0x1d44e && r <= 0x1d467:
		return string('a' + r - 0x1d44e)
	case r >= 0x1d400 && r <= 0x1d419:
		return `\mathbf{` + string('A'+r-0x1d400) + "}"
	case r >= 0x1d41a && r <= 0x1d433:
		return `\mathbf{` + string('a'+r-0x1d41a) + "}"
	case r == 0x210e:
		return "h"
	case r >= 0x1d6fc && r <= 0x1d714:
		return symbol(0x3b1 + r - 0x1d6fc)
	case r >= 0x1d6e2 && r <= 0x1d6fa:
		return symbol(0x391 + r - 0x1d6e2)
	}
	return string(r)
}

var commands = map[rune]string{
	'α': "alpha", 'β': "beta", 'γ': "gamma", 'δ': "delta", 'ε': "varepsilon", 'ϵ': "epsilon", 'ζ': "zeta", 'η': "eta",
	'θ': "theta", 'ϑ': "vartheta", 'ι': "iota", 'κ': "kappa", 'λ': "lambda", 'μ': "mu", 'ν': "nu", 'ξ': "xi", 'π': "pi",
	'ϖ': "varpi", 'ρ': "rho", 'ϱ': "varrho", 'σ': "sigma", 'ς': "varsigma", 'τ': "tau", 'υ': "upsilon", 'φ': "varphi",
	'ϕ': "phi", 'χ': "chi", 'ψ': "psi", 'ω': "omega", 'Γ': "Gamma", 'Δ': "Delta", 'Θ': "Theta", 'Λ': "Lambda", 'Ξ': "Xi",
	'Π': "Pi", 'Σ': "Sigma", 'Υ': "Upsilon", 'Φ': "Phi", 'Ψ': "Psi", 'Ω': "Omega",
	'∞': "infty", '∂': "partial", '∇': "nabla", 'ℏ': "hbar", 'ℓ': "ell", 'ℜ': "Re", 'ℑ': "Im", 'ℵ': "aleph", '∅': "emptyset",
	'ℝ': "mathbb{R}", 'ℕ': "mathbb{N}", 'ℤ': "mathbb{Z}", 'ℚ': "mathbb{Q}", 'ℂ': "mathbb{C}",
	'±': "pm", '∓': "mp", '×': "times", '÷': "div", '⋅': "cdot", '·': "cdot", '∗': "ast", '∘': "circ", '•': "bullet",
	'⊕': "oplus", '⊖': "ominus", '⊗': "otimes", '⊙': "odot", '†': "dagger", '‡': "ddagger",
	'∑': "sum", '∏': "prod", '∐': "coprod", '∫': "int", '∬': "iint", '∭': "iiint", '∮': "oint", '∯': "oiint", '∰': "oiiint",
	'⋃': "bigcup", '⋂': "bigcap", '⋁': "bigvee", '⋀': "bigwedge", '⨁': "bigoplus", '⨂': "bigotimes", '⨀': "bigodot",
	'∪': "cup", '∩': "cap", '∨': "vee", '∧': "wedge", '¬': "neg", '∀': "forall", '∃': "exists", '∄': "nexists",
	'∈': "in", '∉': "notin", '∋': "ni", '⊂': "subset", '⊃': "supset", '⊆': "subseteq", '⊇': "supseteq", '∖': "setminus",
	'≤': "leq", '≥': "geq", '≠': "neq", '≈': "approx", '≡': "equiv", '≅': "cong", '∼': "sim", '≃': "simeq", '∝': "propto",
	'≪': "ll", '≫': "gg", '≺': "prec", '≻': "succ", '⊥': "perp", '∥': "parallel", '∣': "mid", '⊢': "vdash", '⊨': "models",
	'→': "rightarrow", '←': "leftarrow", '↔': "leftrightarrow", '⇒': "Rightarrow", '⇐': "Leftarrow", '⇔': "Leftrightarrow",
	'↑': "uparrow", '↓': "downarrow", '↦': "mapsto", '⟶': "longrightarrow", '⟵': "longleftarrow", '⟹': "Longrightarrow",
	'…': "ldots", '⋯': "cdots", '⋮': "vdots", '⋱': "ddots", '∴': "therefore", '∵': "because", '∠': "angle", '△': "triangle",
	'°': "degree", '√': "surd", '⊤': "top", '⟨': "langle", '⟩': "rangle", '⌊': "lfloor", '⌋': "rfloor", '⌈': "lceil", '⌉': "rceil",
	'≜': "triangleq", '≔': "coloneqq", '∎': "blacksquare", '★': "star", '◦': "circ", '∡': "measuredangle",
}
