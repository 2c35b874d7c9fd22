// Package docx reads Word documents (ECMA-376 WordprocessingML) straight from
// their XML: headings through the inheritance of styles, lists as
// numbering.xml counts them, tables with merged cells, text boxes, formulas,
// charts and diagrams, foot- and endnotes. Insertions of tracked changes are
// kept, deletions dropped; heads and feet of pages and hidden text are left out.
//
// The body is read block by block, so memory does not grow with its length
// beyond the Markdown itself. The format has no pages: the document has one.
package docx
