package meta_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

func TestSpaceHasLevels(t *testing.T) {
	const gib, mib = int64(1 << 30), int64(1 << 20)
	for _, c := range []struct {
		space meta.Space
		want  meta.SpaceLevel
	}{
		{meta.StoreSpace(meta.SettingMaxBytes, 0, gib), meta.SpaceFine},
		{meta.StoreSpace(meta.SettingMaxBytes, gib*79/100, gib), meta.SpaceFine},
		{meta.StoreSpace(meta.SettingMaxBytes, gib*80/100+1, gib), meta.SpaceLow},
		{meta.StoreSpace(meta.SettingMaxBytes, gib*95/100+1, gib), meta.SpaceNearlyFull},
		{meta.StoreSpace(meta.SettingMaxBytes, gib-10*mib, gib), meta.SpaceFull}, // a hundredth is kept
		{meta.StoreSpace(meta.SettingMaxBytes, 2*gib, gib), meta.SpaceFull},
		{meta.StoreSpace(meta.SettingMaxStore, 1000*gib-33*mib, 1000*gib), meta.SpaceNearlyFull}, // or 32 MiB
		{meta.DiskSpace(meta.SettingDataDir, 0, gib, 10*gib, true), meta.SpaceFine},
		{meta.DiskSpace(meta.SettingDataDir, 9*gib, gib, 10*gib, true), meta.SpaceLow},
		{meta.DiskSpace(meta.SettingDataDir, mib, 63*mib, 100*gib, true), meta.SpaceFull}, // others have filled it
		{meta.DiskSpace(meta.SettingDataDir, mib, 10*mib, 100*mib, true), meta.SpaceFine}, // a small disk
		{meta.DiskSpace(meta.SettingDataDir, 0, 0, 0, true), meta.SpaceFull},
	} {
		assert.Equal(t, c.want, c.space.Level(), "%+v", c.space)
	}
}

// TestSpaceIsJudged checks that each level has a finding with the setting, and which of them are wrong.
func TestSpaceIsJudged(t *testing.T) {
	judge := func(s meta.Space, refused ...string) []meta.Finding {
		return meta.JudgeInstall(meta.Install{Space: []meta.Space{s}, Refused: refused})
	}
	require.Empty(t, judge(meta.StoreSpace(meta.SettingMaxBytes, 0, 1000)))
	for used, severity := range map[int64]meta.Severity{
		800: meta.Warning, 949: meta.Warning, 950: meta.Wrong, 1000: meta.Wrong,
	} {
		found := judge(meta.StoreSpace(meta.SettingMaxBytes, used, 1000))
		require.Len(t, found, 1)
		assert.Equal(t, meta.StateSpaceLow, found[0].Cause)
		assert.Equal(t, severity, found[0].Severity, used)
		assert.Contains(t, fmt.Sprint(found[0].Evidence, found[0].Do), "streams.max_bytes")
	}
	found := judge(meta.StoreSpace(meta.SettingMaxStore, 1000, 1000), "there is no space left")
	require.Len(t, found, 2)
	assert.Equal(t, meta.StateNotStoring, found[1].Cause)
	assert.Equal(t, meta.StateSpaceLow, found[1].Because)
	found = judge(meta.DiskSpace(meta.SettingProjections, 1000, 0, 1000, false))
	assert.Contains(t, found[0].Summary, "read models fall behind")
}

func TestBodyThatNATSDoesNotTakeIsJudged(t *testing.T) {
	require.Empty(t, meta.JudgeInstall(meta.Install{MaxBody: 1000, Storable: 1000}))
	require.Empty(t, meta.JudgeInstall(meta.Install{MaxBody: 1000}))
	found := meta.JudgeInstall(meta.Install{MaxBody: 1000, Storable: 999})
	require.Len(t, found, 1)
	require.Equal(t, meta.StateBodyTooLarge, found[0].Cause)
	require.Equal(t, meta.Wrong, found[0].Severity)
	require.Contains(t, fmt.Sprint(found[0].Do), "webhook.max_body to at most 999")
}
