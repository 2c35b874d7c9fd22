package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/clara"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// Ingest takes files and folders into a collection.
type Ingest struct {
	Path       []string `arg:"" help:"Files and folders; folders with all below them, hidden files and links left out."`
	Collection string   `help:"Collection; made if it is not there." short:"c" env:"CLARA_COLLECTION" default:"default"`
	Password   string   `help:"Password of encrypted files."`
	Detach     bool     `help:"Do not wait until everything is searchable."`
}

// chunk is how much of a file travels in one message.
const chunk = 256 << 10

// Run uploads every file, follows the job, and prints what became of each.
func (i *Ingest) Run(ctx context.Context, e *Env) error {
	files, err := listFiles(i.Path)
	if err != nil {
		return err
	}
	client, err := e.ingest()
	if err != nil {
		return err
	}
	job, err := client.StartIngest(ctx, &ingestv1.StartIngestRequest{Parent: collection(i.Collection), Label: strings.Join(i.Path, " ")})
	if err != nil {
		return err
	}
	var failed []failure
	for n, f := range files {
		if _, err := upload(ctx, client, f, collection(i.Collection), job.Name, i.Password); err != nil {
			if clara.IsContext(err) || ctx.Err() != nil || clara.KindOf(err) == clara.Unavailable && !e.answers(ctx, job.Name) {
				i.leave(ctx, e, client, job.Name, n, len(files))
				return fmt.Errorf("uploading %s (%d of %d): %w", f.label, n+1, len(files), err)
			}
			failed = append(failed, failure{f.label, err.Error()})
		}
		if width, ok := isTerminal(e.Err); ok && !e.JSON {
			fmt.Fprintf(e.Err, "\r\x1b[2K%s", clip(oneLine(fmt.Sprintf("uploaded %d of %d: %s", n+1, len(files), f.label)), width-1))
		}
	}
	if _, ok := isTerminal(e.Err); ok && !e.JSON {
		fmt.Fprint(e.Err, "\r\x1b[2K")
	}
	finished, err := client.FinishIngest(ctx, &ingestv1.FinishIngestRequest{Name: job.Name})
	if err != nil {
		for _, f := range failed {
			fmt.Fprintf(e.Err, "%s: failed: %s\n", oneLine(f.label), oneLine(f.reason))
		}
		return fmt.Errorf("%d of %d files were sent: %w", len(files)-len(failed), len(files), err)
	}
	return e.follow(ctx, finished, i.Detach, failed)
}

// answers reports whether the service is there after an upload that it could not take: then the fault is this file's, such as
// one that is too large for the disk, and the rest goes on.
func (e *Env) answers(ctx context.Context, job string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client, err := e.jobs()
	if err != nil {
		return false
	}
	_, err = client.GetJob(ctx, &jobv1.GetJobRequest{Name: job})
	return err == nil
}

// leave ends a job whose files were not all sent, so that it does not wait for the rest, and says what there is.
func (i *Ingest) leave(ctx context.Context, e *Env, client ingestv1connect.IngestServiceClient, job string, sent, all int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, err := client.FinishIngest(ctx, &ingestv1.FinishIngestRequest{Name: job}); err != nil {
		return // the service is away, which the caller's error says; it closes the job itself in time
	}
	fmt.Fprintf(e.Err, "%d of %d files were sent for sure and are being taken in; stop that with: clara jobs cancel %s\n", sent, all, short(job))
}

// file is one file to take in.
type file struct {
	path  string
	label string // as the user will see it: relative to what was named
}

// listFiles finds the regular files below the paths. Hidden files and links are left out unless named themselves. A folder that
// cannot be looked into is in the list too, so that it is told with the reason, and the rest goes on.
func listFiles(paths []string) ([]file, error) {
	var out []file
	for _, root := range paths {
		info, err := os.Stat(root)
		if err != nil {
			return nil, clara.Errorf(clara.NotFound, "find files: %w", err)
		}
		if !info.IsDir() && !info.Mode().IsRegular() { // opening a pipe would wait for its writer
			return nil, clara.Errorf(clara.Invalid, "%s is neither a file nor a folder", root)
		}
		if !info.IsDir() {
			out = append(out, file{root, valid(filepath.Base(root))})
			continue
		}
		err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil && d == nil {
				return err
			}
			if path != root && strings.HasPrefix(d.Name(), ".") {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if err != nil || d.Type().IsRegular() {
				label, relErr := filepath.Rel(root, path)
				if relErr != nil {
					return relErr
				}
				if label == "." { // the folder itself cannot be looked into
					label = filepath.Base(root)
				}
				out = append(out, file{path, valid(filepath.ToSlash(label))})
			}
			return nil
		})
		if err != nil {
			return nil, clara.Errorf(clara.Invalid, "list %s: %w", root, err)
		}
	}
	if len(out) == 0 {
		return nil, clara.Errorf(clara.Invalid, "no files below %s", strings.Join(paths, ", "))
	}
	return out, nil
}

// valid is a file name that can travel: names may be any bytes, messages and terminals take UTF-8.
func valid(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

// fileURI names a file on this machine. Bytes that are no UTF-8 are written as %XX.
func fileURI(path string) string {
	path = filepath.ToSlash(absolute(path))
	if !utf8.ValidString(path) {
		path = (&url.URL{Path: path}).EscapedPath()
	}
	return "file://" + path
}

// upload streams one file to the service.
func upload(ctx context.Context, client ingestv1connect.IngestServiceClient, f file, parent, job, password string) (*ingestv1.Document, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "%w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "stat: %w", err)
	}
	stream, err := client.UploadDocument(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&ingestv1.UploadDocumentRequest{Part: &ingestv1.UploadDocumentRequest_Header_{Header: &ingestv1.UploadDocumentRequest_Header{
		Parent: parent, File: f.label, Uri: fileURI(f.path), Job: job, Password: password, SizeBytes: info.Size(),
	}}})
	buf := make([]byte, chunk)
	for err == nil {
		n, readErr := in.Read(buf)
		if n > 0 {
			err = stream.Send(&ingestv1.UploadDocumentRequest{Part: &ingestv1.UploadDocumentRequest_Data{Data: buf[:n]}})
		}
		if readErr == io.EOF {
			break
		}
		if readErr != nil {
			_, _ = stream.CloseAndReceive()
			return nil, clara.Errorf(clara.Invalid, "read: %w", readErr)
		}
	}
	// A send that failed says only that the server has ended the call; its reason comes with the response.
	doc, closeErr := stream.CloseAndReceive()
	if closeErr != nil {
		return nil, closeErr
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return doc, nil
}

// absolute makes a path that exists absolute; anything else, such as a hub id, is left as it is.
func absolute(path string) string {
	if path == "" {
		return ""
	}
	if _, err := os.Stat(path); err != nil {
		return path
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}
