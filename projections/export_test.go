package projections

import "time"

// HeadEvery sets the interval between two requests for the stream's last sequence.
func (o *RunnerOptions) HeadEvery(d time.Duration) { o.headEvery = d }
