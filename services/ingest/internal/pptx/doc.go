// Package pptx reads PowerPoint presentations (ECMA-376 PresentationML)
// straight from their XML: slides in the order of the presentation, one page
// each, titles as headings, shapes in reading order, bullets as placeholders
// inherit them from layout and master, tables with merged cells, the data of
// charts, the texts of diagrams, speaker notes. Dates, footers and slide
// numbers are left out.
package pptx
