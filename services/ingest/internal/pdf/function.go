package pdf

import (
	"encoding/binary"
	"unicode/utf16"
)

// fn is a function of pdfium that this package calls.
type fn int

const (
	fnLoadCustomDocument fn = iota
	fnCloseDocument
	fnGetLastError
	fnGetPageCount
	fnLoadPage
	fnClosePage
	fnPageWidth
	fnPageHeight
	fnPageRotation
	fnPageBox
	fnTextLoad
	fnTextClose
	fnTextCount
	fnTextGet
	fnTextUnicode
	fnTextMapError
	fnTextObject
	fnTextLooseBox
	fnTextMatrix
	fnTextFontSize
	fnTextObjFont
	fnFontName
	fnFontFlags
	fnFontWeight
	fnObjCount
	fnObjGet
	fnObjType
	fnObjBounds
	fnObjMatrix
	fnObjMCID
	fnObjMarkCount
	fnObjMark
	fnMarkName
	fnPathMode
	fnPathCount
	fnPathSegment
	fnSegPoint
	fnSegType
	fnSegClose
	fnFormCount
	fnFormGet
	fnMetaText
	fnBookmarkChild
	fnBookmarkNext
	fnBookmarkTitle
	fnLinkEnumerate
	fnLinkRect
	fnLinkAction
	fnActionType
	fnActionURI
	fnAnnotCount
	fnAnnotGet
	fnAnnotClose
	fnAnnotType
	fnFlatten
	fnTreePage
	fnTreeClose
	fnTreeCount
	fnTreeChild
	fnElemType
	fnElemCount
	fnElemChild
	fnElemChildMCID
	fnElemAlt
	fnElemAttrCount
	fnElemAttr
	fnAttrValue
	fnAttrNumber
	fnImageRaw
	fnImageFilterCount
	fnImageFilter
	fnImageMeta
	fnImageRendered
	fnBitmapCreate
	fnBitmapDestroy
	fnBitmapFill
	fnBitmapBuffer
	fnBitmapWidth
	fnBitmapHeight
	fnBitmapStride
	fnBitmapFormat
	fnRenderPage
	fnCatalogLang
	fnCatalogTagged
	fnCount
)

var fnNames = [fnCount]string{
	fnLoadCustomDocument: "FPDF_LoadCustomDocument",
	fnCloseDocument:      "FPDF_CloseDocument",
	fnGetLastError:       "FPDF_GetLastError",
	fnGetPageCount:       "FPDF_GetPageCount",
	fnLoadPage:           "FPDF_LoadPage",
	fnClosePage:          "FPDF_ClosePage",
	fnPageWidth:          "FPDF_GetPageWidthF",
	fnPageHeight:         "FPDF_GetPageHeightF",
	fnPageRotation:       "FPDFPage_GetRotation",
	fnPageBox:            "FPDF_GetPageBoundingBox",
	fnTextLoad:           "FPDFText_LoadPage",
	fnTextClose:          "FPDFText_ClosePage",
	fnTextCount:          "FPDFText_CountChars",
	fnTextGet:            "FPDFText_GetText",
	fnTextUnicode:        "FPDFText_GetUnicode",
	fnTextMapError:       "FPDFText_HasUnicodeMapError",
	fnTextObject:         "FPDFText_GetTextObject",
	fnTextLooseBox:       "FPDFText_GetLooseCharBox",
	fnTextMatrix:         "FPDFText_GetMatrix",
	fnTextFontSize:       "FPDFText_GetFontSize",
	fnTextObjFont:        "FPDFTextObj_GetFont",
	fnFontName:           "FPDFFont_GetBaseFontName",
	fnFontFlags:          "FPDFFont_GetFlags",
	fnFontWeight:         "FPDFFont_GetWeight",
	fnObjCount:           "FPDFPage_CountObjects",
	fnObjGet:             "FPDFPage_GetObject",
	fnObjType:            "FPDFPageObj_GetType",
	fnObjBounds:          "FPDFPageObj_GetBounds",
	fnObjMatrix:          "FPDFPageObj_GetMatrix",
	fnObjMCID:            "FPDFPageObj_GetMarkedContentID",
	fnObjMarkCount:       "FPDFPageObj_CountMarks",
	fnObjMark:            "FPDFPageObj_GetMark",
	fnMarkName:           "FPDFPageObjMark_GetName",
	fnPathMode:           "FPDFPath_GetDrawMode",
	fnPathCount:          "FPDFPath_CountSegments",
	fnPathSegment:        "FPDFPath_GetPathSegment",
	fnSegPoint:           "FPDFPathSegment_GetPoint",
	fnSegType:            "FPDFPathSegment_GetType",
	fnSegClose:           "FPDFPathSegment_GetClose",
	fnFormCount:          "FPDFFormObj_CountObjects",
	fnFormGet:            "FPDFFormObj_GetObject",
	fnMetaText:           "FPDF_GetMetaText",
	fnBookmarkChild:      "FPDFBookmark_GetFirstChild",
	fnBookmarkNext:       "FPDFBookmark_GetNextSibling",
	fnBookmarkTitle:      "FPDFBookmark_GetTitle",
	fnLinkEnumerate:      "FPDFLink_Enumerate",
	fnLinkRect:           "FPDFLink_GetAnnotRect",
	fnLinkAction:         "FPDFLink_GetAction",
	fnActionType:         "FPDFAction_GetType",
	fnActionURI:          "FPDFAction_GetURIPath",
	fnAnnotCount:         "FPDFPage_GetAnnotCount",
	fnAnnotGet:           "FPDFPage_GetAnnot",
	fnAnnotClose:         "FPDFPage_CloseAnnot",
	fnAnnotType:          "FPDFAnnot_GetSubtype",
	fnFlatten:            "FPDFPage_Flatten",
	fnTreePage:           "FPDF_StructTree_GetForPage",
	fnTreeClose:          "FPDF_StructTree_Close",
	fnTreeCount:          "FPDF_StructTree_CountChildren",
	fnTreeChild:          "FPDF_StructTree_GetChildAtIndex",
	fnElemType:           "FPDF_StructElement_GetType",
	fnElemCount:          "FPDF_StructElement_CountChildren",
	fnElemChild:          "FPDF_StructElement_GetChildAtIndex",
	fnElemChildMCID:      "FPDF_StructElement_GetChildMarkedContentID",
	fnElemAlt:            "FPDF_StructElement_GetAltText",
	fnElemAttrCount:      "FPDF_StructElement_GetAttributeCount",
	fnElemAttr:           "FPDF_StructElement_GetAttributeAtIndex",
	fnAttrValue:          "FPDF_StructElement_Attr_GetValue",
	fnAttrNumber:         "FPDF_StructElement_Attr_GetNumberValue",
	fnImageRaw:           "FPDFImageObj_GetImageDataRaw",
	fnImageFilterCount:   "FPDFImageObj_GetImageFilterCount",
	fnImageFilter:        "FPDFImageObj_GetImageFilter",
	fnImageMeta:          "FPDFImageObj_GetImageMetadata",
	fnImageRendered:      "FPDFImageObj_GetRenderedBitmap",
	fnBitmapCreate:       "FPDFBitmap_Create",
	fnBitmapDestroy:      "FPDFBitmap_Destroy",
	fnBitmapFill:         "FPDFBitmap_FillRect",
	fnBitmapBuffer:       "FPDFBitmap_GetBuffer",
	fnBitmapWidth:        "FPDFBitmap_GetWidth",
	fnBitmapHeight:       "FPDFBitmap_GetHeight",
	fnBitmapStride:       "FPDFBitmap_GetStride",
	fnBitmapFormat:       "FPDFBitmap_GetFormat",
	fnRenderPage:         "FPDF_RenderPageBitmap",
	fnCatalogLang:        "FPDFCatalog_GetLanguage",
	fnCatalogTagged:      "FPDFCatalog_IsTagged",
}

func utf16le(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}
