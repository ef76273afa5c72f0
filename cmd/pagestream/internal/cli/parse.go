package cli

import (
	"io"

	"github.com/alecthomas/kong"
)

// Parse reports what is wrong with a command line, as [Main] would, and runs nothing. It reads no file and
// prints nothing; --help is right with any command. The docs are tested with it.
func Parse(args []string) error {
	help := false
	parser, err := kong.New(&CLI{}, kong.Exit(func(int) { help = true }), kong.Writers(io.Discard, io.Discard))
	if err != nil {
		return err
	}
	if _, err = parser.Parse(args); help {
		return nil
	}
	if err == nil {
		err = emptyArgument(args)
	}
	return err
}
