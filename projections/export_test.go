package projections

import "time"

// HeadEvery sets how often the stream is asked how far it is.
func (o *RunnerOptions) HeadEvery(d time.Duration) { o.headEvery = d }
