package projections

import "time"

// HeadEvery sets the interval between two requests for the stream's last sequence.
func (o *RunnerOptions) HeadEvery(d time.Duration) { o.headEvery = d }

// PartOf sets after how many changes a transaction may end in the middle of an event.
func (o *RunnerOptions) PartOf(changes int) { o.part = changes }
