package console

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestContrast checks that text has a contrast of at least 4.5 to its background, in
// both themes.
// https://www.w3.org/TR/WCAG22/#contrast-minimum
func TestContrast(t *testing.T) {
	css, err := assetFiles.ReadFile("assets/console.css")
	require.NoError(t, err)
	blocks := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(string(css), -1)
	require.Len(t, blocks, 2)
	for theme, block := range map[string]string{"light": blocks[0][1], "dark": blocks[1][1]} {
		color := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]+)`).FindAllStringSubmatch(block, -1) {
			color[m[1]] = luminance(t, m[2])
		}
		for _, pair := range []string{
			"text bg", "text card", "dim bg", "dim card", "link bg", "link card", "on-accent accent",
			"text quiet", "dim quiet", "link quiet",
			"wrong card", "wrong wrong-bg", "warning card", "warning warning-bg", "fine card", "fine fine-bg",
			"text bubble", "dim bubble", "text mine", "link bubble",
		} {
			front, back, _ := strings.Cut(pair, " ")
			require.Contains(t, color, front)
			require.Contains(t, color, back)
			a, b := color[front], color[back]
			require.GreaterOrEqual(t, (max(a, b)+.05)/(min(a, b)+.05), 4.5,
				"%s: contrast of %s on %s", theme, front, back)
		}
	}
}

func luminance(t *testing.T, hex string) (l float64) {
	hex = strings.TrimPrefix(hex, "#")
	if len(hex) == 3 {
		hex = string([]byte{hex[0], hex[0], hex[1], hex[1], hex[2], hex[2]})
	}
	for i, weight := range []float64{.2126, .7152, .0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		require.NoError(t, err)
		c := float64(n) / 255
		if c <= .04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}
