package doctor

import (
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// PageReport is what was found of a page.
type PageReport struct {
	Page domain.PageID `json:"page"`
	Name string        `json:"name,omitempty"`
	meta.Judgement
}

// Report is a whole examination.
type Report struct {
	At time.Time `json:"at"`
	// Install is empty where nothing is the matter.
	Install []meta.Finding `json:"install"`
	Pages   []PageReport   `json:"pages"`
	// Wrong says that at least one finding is.
	Wrong bool `json:"wrong"`
}

// report judges what was gathered.
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
