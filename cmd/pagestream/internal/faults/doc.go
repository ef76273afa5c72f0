// Package faults is the fault suite: it damages the real program in the ways of RELIABILITY.md, and checks
// from outside that nothing that was acknowledged is lost or doubled. It has tests only, and they run on Linux.
//
//	go test ./cmd/pagestream/internal/faults                           # the quick half, as in CI
//	task faults                                                        # all cases, and a table
//	task faults -- -only power -rounds 200                             # one case, with a number of rounds
//
// The program under test is a child process, built once for each run or given with -binary. The client shares
// no code with it: this package imports no other package of this module, signs and builds its own deliveries,
// and reads the HTTP API with its own types. It writes each acknowledged mid, with the time of the
// acknowledgement, to a file outside of the directory under test.
//
// A fault is a row of the table in faults_test.go. Cases that need a disk of their own mount an image with
// mkfs.ext4 and mount -o loop, which needs root; without it they are skipped and the reason is in the table. So
// are the cases whose names begin with cluster: they build nats-server in the version of this module, and run three
// of them, each in a network namespace of its own, and two nodes of the program.
package faults
