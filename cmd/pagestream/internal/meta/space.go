package meta

import (
	"fmt"

	"github.com/dustin/go-humanize"
)

// SpaceLevel is how full something is, as the percentage that was reached: 0, 80, 95 or 100.
type SpaceLevel int

// The levels. From SpaceLow on there is a warning. At SpaceFull nothing more is stored.
const (
	SpaceFine       SpaceLevel = 0
	SpaceLow        SpaceLevel = 80
	SpaceNearlyFull SpaceLevel = 95
	SpaceFull       SpaceLevel = 100
)

// Space is one limit of what can be stored, and how much of it is used. It is the only place that decides how
// full something is: readiness, doctor, status, metrics and log ask it.
type Space struct {
	// Setting is the setting that moves the limit, [SettingMaxStore] and so on.
	Setting string `json:"setting"`
	// Used and Max are bytes. Max of a disk is what is used here and what is free.
	Used int64 `json:"used_bytes"`
	Max  int64 `json:"max_bytes"`
	// Keep is how much of Max is kept free of deliveries: for events of pagestream's own, such as those of
	// an erasure, and because a full disk breaks what is being written.
	Keep int64 `json:"kept_bytes"`
	// Ingest reports whether deliveries are refused when it is full. On a disk that has only read models,
	// these fall behind instead.
	Ingest bool `json:"stops_ingest"`
}

// The settings of limits. The two directories stand for their disks.
const (
	SettingMaxStore    = "streams.max_store"
	SettingMaxBytes    = "streams.max_bytes"
	SettingDataDir     = "data.dir"
	SettingProjections = "projections.dir"
	// SettingNATS is the limit of the account on an external NATS server.
	SettingNATS = "nats.url"
)

// Bounds of [Space].Keep.
const (
	keepStored = 32 << 20 // of a limit of the stream: this, or a hundredth if that is less
	keepDisk   = 64 << 20 // of a disk: this, or a twentieth if that is less
)

// StoreSpace returns the space of a limit of what is stored in NATS.
func StoreSpace(setting string, used, limit int64) Space {
	return Space{Setting: setting, Used: used, Max: limit, Keep: min(keepStored, limit/100), Ingest: true}
}

// DiskSpace returns the space of a disk of total bytes, of which free bytes can be written, and our files
// have used bytes.
func DiskSpace(setting string, used, free, total int64, ingest bool) Space {
	return Space{Setting: setting, Used: used, Max: used + free, Keep: min(keepDisk, total/20), Ingest: ingest}
}

// Level returns how full it is.
func (s Space) Level() SpaceLevel {
	switch {
	case s.Max-s.Used < s.Keep || s.Used >= s.Max:
		return SpaceFull
	case s.reached(SpaceNearlyFull):
		return SpaceNearlyFull
	case s.reached(SpaceLow):
		return SpaceLow
	}
	return SpaceFine
}

// StopsIngest reports whether deliveries are refused because of it.
func (s Space) StopsIngest() bool { return s.Ingest && s.Level() == SpaceFull }

func (s Space) reached(l SpaceLevel) bool { return float64(s.Used)*100 >= float64(s.Max)*float64(l) }

// Percent returns which part of Max is used.
func (s Space) Percent() int {
	if s.Max <= 0 {
		return 100
	}
	return int(float64(s.Used) * 100 / float64(s.Max))
}

// String returns for example "streams.max_bytes: 95 % of 1.0 GiB are used, 51 MiB are left".
func (s Space) String() string {
	left := humanize.IBytes(uint64(max(0, s.Max-s.Used)))
	switch s.Setting {
	case SettingDataDir, SettingProjections:
		return fmt.Sprintf("the disk of %s: %s are used here, %s are left", s.Setting, humanize.IBytes(uint64(s.Used)), left)
	case SettingNATS:
		return fmt.Sprintf("the account on the NATS server: %d %% of %s are used, %s are left",
			s.Percent(), humanize.IBytes(uint64(s.Max)), left)
	}
	return fmt.Sprintf("%s: %d %% of %s are used, %s are left", s.Setting, s.Percent(), humanize.IBytes(uint64(s.Max)), left)
}

// remedy returns what makes room.
func (s Space) remedy() string {
	switch s.Setting {
	case SettingMaxStore:
		return "raise streams.max_store; without one, give the disk of data.dir more room"
	case SettingMaxBytes:
		return "raise streams.max_bytes and restart pagestream serve"
	case SettingNATS:
		return "raise the limit of the account on the NATS server"
	}
	return "free space on the disk of " + s.Setting + ", or move it to a larger one"
}

// judgeSpace returns the findings about what is nearly full.
func judgeSpace(list []Space) (out []Finding) {
	for _, s := range list {
		level := s.Level()
		if level == SpaceFine {
			continue
		}
		f := Finding{
			Cause: StateSpaceLow, Severity: Warning, Summary: "There is not much space left.",
			Evidence: []string{s.String()}, Do: []string{s.remedy(), "pagestream status"},
		}
		switch {
		case s.StopsIngest():
			f.Severity, f.Summary = Wrong, "There is no space left: deliveries are answered 503 until there is."
		case level == SpaceFull:
			f.Severity, f.Summary = Wrong, "There is no space left: the read models fall behind until there is."
		case level == SpaceNearlyFull:
			f.Severity, f.Summary = Wrong, "There is hardly any space left."
		}
		out = append(out, f)
	}
	return out
}
