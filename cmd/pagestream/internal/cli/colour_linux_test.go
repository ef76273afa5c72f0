package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// terminal returns a pseudo terminal: what is written to tty can be read from control.
func terminal(t *testing.T) (control, tty *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = control.Close() })
	fd := int(control.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	tty, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tty.Close() })
	return control, tty
}

// TestColoursAreForTerminals checks that a table has colours on a terminal only, and that they move no column.
func TestColoursAreForTerminals(t *testing.T) {
	show := func(change func(*CLI)) string {
		control, tty := terminal(t)
		c := &CLI{Out: tty}
		change(c)
		states := []meta.Severity{meta.Wrong, meta.Warning, meta.Fine}
		writeTable(c, "STATE, 佐藤", states, func(s meta.Severity) cells { return cells{toned{string(s), ofSeverity(s)}, "x"} })
		b := make([]byte, 4096)
		n, err := control.Read(b)
		require.NoError(t, err)
		return strings.ReplaceAll(string(b[:n]), "\r\n", "\n")
	}
	const plainTable = "STATE    佐藤\nwrong    x\nwarning  x\nfine     x\n"
	coloured := show(func(*CLI) {})
	assert.Contains(t, coloured, "\x1b[31mwrong\x1b[0m    x\n")
	assert.Contains(t, coloured, "\x1b[33mwarning\x1b[0m  x\n")
	assert.Contains(t, coloured, "\x1b[32mfine\x1b[0m     x\n")
	for name, change := range map[string]func(*CLI){
		"--no-color": func(c *CLI) { c.NoColor = true },
		"NO_COLOR":   func(c *CLI) { c.Env = []string{"NO_COLOR=1"} },
		"TERM":       func(c *CLI) { c.Env = []string{"TERM=dumb"} },
	} {
		assert.Equal(t, plainTable, show(change), name)
	}
	assert.NotEqual(t, plainTable, show(func(c *CLI) { c.Env = []string{"NO_COLOR="} }), "an empty value says nothing")

	file, err := os.Create(t.TempDir() + "/out")
	require.NoError(t, err)
	c := &CLI{Out: file}
	writeTable(c, "STATE", []int{1}, func(int) cells { return cells{toned{"wrong", red}} })
	require.NoError(t, file.Close())
	b, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	assert.Equal(t, "STATE\nwrong\n", string(b))
}
