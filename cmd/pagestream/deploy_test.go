package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// deployed returns a file of the folder deploy.
func deployed(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("deploy", name))
	require.NoError(t, err)
	return string(b)
}

// accepted runs a check of a file by its own program, and skips the test if that is not installed.
func accepted(t *testing.T, program string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed, so its file is not checked by it", program)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// publicPaths are the paths of the public listener, and one of the private listener.
var publicPaths = map[string]bool{
	"/webhooks": true, "/webhooks/main": true, "/oauth/start": true, "/oauth/callback": true, "/healthz": true,
	"/meta/deauthorize": true, "/meta/data-deletion/main": true, "/api/v1/status": false, "/metrics": false, "/": false,
	"/readyz": false, "/webhooksother": false,
}

// TestCaddyfile checks which paths Caddy passes on, and that Caddy accepts the file.
func TestCaddyfile(t *testing.T) {
	m := regexp.MustCompile(`@public path (.*)`).FindStringSubmatch(deployed(t, "Caddyfile"))
	require.NotNil(t, m)
	for path, want := range publicPaths {
		passed := false
		for pattern := range strings.FieldsSeq(m[1]) {
			before, wild := strings.CutSuffix(pattern, "*")
			passed = passed || path == pattern || wild && strings.HasPrefix(path, before)
		}
		assert.Equal(t, want, passed, path)
	}
	accepted(t, "caddy", "validate", "--adapter", "caddyfile", "--config", filepath.Join("deploy", "Caddyfile"))
}

// TestNginxConf checks which paths nginx passes on, and that nginx accepts the file.
func TestNginxConf(t *testing.T) {
	text := deployed(t, "nginx.conf")
	m := regexp.MustCompile(`location ~ (\S+) \{`).FindStringSubmatch(text)
	require.NotNil(t, m)
	for path, want := range publicPaths {
		assert.Equal(t, want, regexp.MustCompile(m[1]).MatchString(path), path)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		return filepath.Join(dir, name)
	}
	cert, key := certificate(t)
	const live = "/etc/letsencrypt/live/pagestream.example.com/"
	site := write("site.conf", strings.NewReplacer(
		live+"fullchain.pem", write("cert.pem", cert), live+"privkey.pem", write("key.pem", key),
	).Replace(text))
	conf := write("nginx.conf", "pid "+dir+"/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n"+
		"client_body_temp_path "+dir+"/a;\nproxy_temp_path "+dir+"/b;\nfastcgi_temp_path "+dir+"/c;\n"+
		"uwsgi_temp_path "+dir+"/d;\nscgi_temp_path "+dir+"/e;\ninclude "+site+";\n}\n")
	accepted(t, "nginx", "-t", "-p", dir, "-c", conf)
}

// certificate returns a certificate for the example's name and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"pagestream.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// TestContainerfile checks that what the file copies and builds exists, that the Go version is that of go.mod, and
// that the program accepts the settings of the image. The image itself is not built: that needs the network.
func TestContainerfile(t *testing.T) {
	text := deployed(t, "Containerfile")
	for _, m := range regexp.MustCompile(`(?m)^COPY ([^-].*) \S+$`).FindAllStringSubmatch(text, -1) {
		for name := range strings.FieldsSeq(m[1]) {
			assert.FileExists(t, filepath.Join(root, name, map[bool]string{true: "go.mod"}[name == "."]))
		}
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	version := regexp.MustCompile(`golang:([\d.]+) `).FindStringSubmatch(text)
	require.NotNil(t, version)
	assert.Contains(t, string(mod), "\ngo "+version[1])
	assert.DirExists(t, filepath.Join(root, regexp.MustCompile(`go build .* (\S+) \\`).FindStringSubmatch(text)[1]))

	check := regexp.MustCompile(`HEALTHCHECK .* CMD \["/usr/bin/pagestream", "(\w+)"\]`).FindStringSubmatch(text)
	require.NotNil(t, check)
	dir := t.TempDir()
	bin := filepath.Join(program(t, dir), "pagestream")
	token := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(token, []byte(strings.Repeat("t", 40)), 0o600))
	out, err := exec.CommandContext(
		t.Context(), bin, "--server", "http://127.0.0.1:1", "--token-file", token, check[1]).CombinedOutput()
	require.Error(t, err, "no server answers")
	assert.Contains(t, string(out), "no server is running")
	cmd := exec.CommandContext(t.Context(), bin, "config", "check")
	cmd.Env = []string{
		"HOME=" + dir, "PAGESTREAM_APP_SECRET=5c0d9a4be17f42863fa1c07d92e8b456",
		"PAGESTREAM_APP_VERIFY_TOKEN=97b1f06ae2d84c3590ab7e61d3f5c428",
	}
	settings := regexp.MustCompile(`\b(PAGESTREAM_[A-Z_]+)=(\S+)`).FindAllStringSubmatch(text, -1)
	require.GreaterOrEqual(t, len(settings), 4)
	for _, s := range settings {
		value := s[2]
		if strings.HasPrefix(value, "/") {
			assert.Contains(t, text, "VOLUME /var/lib/pagestream /etc/pagestream")
			value = filepath.Join(dir, value)
		}
		cmd.Env = append(cmd.Env, s[1]+"="+value)
	}
	cmd.Dir = dir
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// TestRelease checks that what a release is made of exists, and that each archive has a list of its parts. goreleaser
// itself is not run: it is a tool of the release only.
func TestRelease(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, ".goreleaser.yaml"))
	require.NoError(t, err)
	text := string(b)
	sources := regexp.MustCompile(`(?m)^ +(?:- )?(?:src|postinstall|preremove|main): (\S+)$`).FindAllStringSubmatch(text, -1)
	require.GreaterOrEqual(t, len(sources), 15)
	for _, m := range sources {
		if made, ok := strings.CutPrefix(m[1], "bin/completions/"); ok { // by the hook
			assert.Contains(t, []string{"*", "pagestream.bash", "pagestream.zsh", "pagestream.fish"}, made)
			continue
		}
		found, err := filepath.Glob(filepath.Join(root, m[1]))
		require.NoError(t, err)
		assert.NotEmpty(t, found, m[1])
	}
	assert.Regexp(t, `(?m)^sboms:\n  - id: archives\n    artifacts: archive\n    cmd: syft$`, text)
	assert.NotContains(t, text, "example.com")
}
