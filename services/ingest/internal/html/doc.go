// Package html reads HTML pages: the main content as Markdown with headings,
// nested lists, tables with merged cells, code, formulas and links, in
// whatever encoding the page is. Menus, heads and feet of the site, scripts
// and hidden parts are left out, but never a heading or a table of the content;
// where no main part can be told, the whole body is the content. Nothing that
// a page refers to is fetched; pictures within the page (data: addresses) go
// to the sink.
package html
