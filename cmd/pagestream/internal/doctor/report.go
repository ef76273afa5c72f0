package doctor

import (
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// PageReport is the judgement of one page.
type PageReport struct {
	Page domain.PageID `json:"page"`
	Name string        `json:"name,omitempty"`
	meta.Judgement
}

// Report is the result of an examination.
type Report struct {
	At time.Time `json:"at"`
	// Install has the problems of the installation; it is empty if there are none.
	Install []meta.Finding `json:"install"`
	Pages   []PageReport   `json:"pages"`
	// Wrong reports that at least one finding has the severity Wrong.
	Wrong bool `json:"wrong"`
}

// report judges the collected facts.
func report(at time.Time, in meta.Install, facts []meta.Facts) Report {
	r := Report{At: at, Install: meta.JudgeInstall(in), Pages: []PageReport{}}
	r.Wrong = slices.ContainsFunc(r.Install, func(f meta.Finding) bool { return f.Severity == meta.Wrong })
	for _, f := range facts {
		p := PageReport{Page: f.Row.ID, Name: f.Row.Name, Judgement: meta.Judge(in, f)}
		r.Wrong = r.Wrong || p.Severity == meta.Wrong
		r.Pages = append(r.Pages, p)
	}
	return r
}
