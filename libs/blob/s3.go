package blob

import (
	"context"

	cloud "gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // registers s3://
)

func openS3(ctx context.Context, url string) (*cloud.Bucket, error) {
	return cloud.OpenBucket(ctx, url)
}
