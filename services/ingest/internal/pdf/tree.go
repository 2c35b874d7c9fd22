package pdf

// roles is what the structure tree says of one page's marked content.
type roles struct{}
