package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
)

// CompletionCommand prints the script that completes the command line in a shell.
type CompletionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// completions are the scripts. Each asks the program itself, by the name that was typed, what may follow.
var completions = map[string]string{
	"bash": `# Load it with: source <(pagestream completion bash)
_pagestream() {
    local IFS=$'\n'
    COMPREPLY=($("$1" ` + completeWord + ` "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
}
complete -o default -F _pagestream pagestream
`,
	"zsh": `#compdef pagestream
# Load it with: source <(pagestream completion zsh)
_pagestream() {
    local line
    local -a found
    for line in "${(@f)$("${words[1]}" ` + completeWord + ` "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( ${#found} )); then _describe pagestream found; else _files; fi
}
# A packaged file is loaded by the first use of the function, which completes then.
if [[ ${funcstack[1]} == _pagestream ]]; then _pagestream "$@"; else compdef _pagestream pagestream; fi
`,
	"fish": `# Load it with: pagestream completion fish | source
function __pagestream_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    set -l current (commandline -ct)
    $program ` + completeWord + ` $words "$current" 2>/dev/null
end
complete -c pagestream -a '(__pagestream_complete)'
`,
}

// Run prints the script.
func (s CompletionCommand) Run(c *CLI) error {
	_, err := fmt.Fprint(c.Out, completions[s.Shell])
	return err
}

// completeWord is the first argument of a command line that a script sends: the words that follow it are to be
// completed. It is not in the help.
const completeWord = "__complete"

// completeTimeout bounds the search for the names of pages, since somebody waits at a keyboard.
const completeTimeout = time.Second

// complete prints what the last of the words may be, one a line with a tab and its description. The words are what
// was typed after the program's name; the last one may be empty. It prints nothing if only a file or a text may follow.
func (c *CLI) complete(parser *kong.Kong, words []string) int {
	if len(words) == 0 {
		words = []string{""}
	}
	at, current := position{node: parser.Model.Node}, words[len(words)-1]
	for _, word := range words[:len(words)-1] {
		at.take(word)
	}
	for _, found := range c.candidates(parser, at, current) {
		if strings.HasPrefix(found[0], current) {
			fmt.Fprintf(c.Out, "%s\t%s\n", found[0], inLine(found[1]))
		}
	}
	return ExitOK
}

// position is where the words of a command line lead.
type position struct {
	node   *kong.Node
	args   int         // positional arguments of node
	flag   *kong.Value // whose value follows
	global []string    // flags before, with their values
}

// take follows one word.
func (p *position) take(word string) {
	if p.flag != nil {
		p.global = append(p.global, "--"+p.flag.Name+"="+word)
		p.flag = nil
		return
	}
	if strings.HasPrefix(word, "-") {
		name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
		for _, f := range p.flags() {
			if f.Name != name && (f.Short == 0 || string(f.Short) != name) {
				continue
			}
			if hasValue {
				p.global = append(p.global, "--"+f.Name+"="+value)
			} else if !f.IsBool() {
				p.flag = f.Value
			}
		}
		return
	}
	for _, child := range p.node.Children {
		if child.Name == word {
			p.node, p.args = child, 0
			return
		}
	}
	p.args++
}

// flags returns the flags that may be given here.
func (p *position) flags() (out []*kong.Flag) {
	for n := p.node; n != nil; n = n.Parent {
		out = append(out, n.Flags...)
	}
	return out
}

// candidates returns what may follow, each with its description.
func (c *CLI) candidates(parser *kong.Kong, p position, current string) (out [][2]string) {
	switch {
	case p.flag != nil:
		return c.values(parser, p, p.flag)
	case strings.HasPrefix(current, "-"):
		for _, f := range p.flags() {
			if !f.Hidden {
				out = append(out, [2]string{"--" + f.Name, f.Help})
			}
		}
		return out
	}
	for _, child := range p.node.Children {
		if !child.Hidden {
			out = append(out, [2]string{child.Name, child.Help})
		}
	}
	if n := len(p.node.Positional); n > 0 {
		next := p.node.Positional[min(p.args, n-1)]
		if p.args < n || next.IsSlice() {
			out = append(out, c.values(parser, p, next)...)
		}
	}
	return out
}

// values returns what a flag or an argument may be.
func (c *CLI) values(parser *kong.Kong, p position, v *kong.Value) (out [][2]string) {
	switch v.Target.Interface().(type) {
	case PageRef, []PageRef:
		for _, page := range c.completePages(parser, p.global) {
			if isNumber(string(page.ID)) { // a shell may evaluate anything else
				out = append(out, [2]string{string(page.ID), page.Name})
			}
		}
		return out
	}
	if v.Name == "type" || v.Name == "types" {
		for _, t := range domain.Types() {
			out = append(out, [2]string{string(t), ""})
		}
	}
	for _, one := range v.EnumSlice() {
		if one != "" {
			out = append(out, [2]string{one, ""})
		}
	}
	return out
}

// completePages lists the pages of the server that the flags before name, none if that is not possible in time.
func (c *CLI) completePages(parser *kong.Kong, flags []string) []operate.Page {
	known := slices.DeleteFunc(slices.Clone(flags), func(f string) bool {
		return !slices.ContainsFunc([]string{"--config=", "--server=", "--token-file="}, func(p string) bool {
			return strings.HasPrefix(f, p)
		})
	})
	if _, err := parser.Parse(append(known, "version")); err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, completeTimeout)
	defer cancel()
	c.ctx = ctx
	list, err := collect[operate.Page](c, pagesPath, nil, 0)
	if err != nil {
		return nil
	}
	return list
}
