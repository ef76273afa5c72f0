package connect

import (
	"context"
	"time"
)

// Sweep makes one sweep of a bucket as of a time.
func Sweep(ctx context.Context, b *Bucket, now time.Time) error { return b.sweep(ctx, now) }
