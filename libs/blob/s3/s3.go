// Package s3 lets libs/blob open s3:// addresses, where a program imports it: the client makes a program 10 MB
// larger, and `clara up` keeps its blobs in a folder.
package s3

import _ "gocloud.dev/blob/s3blob" // registers the scheme
