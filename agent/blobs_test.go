package agent

import (
	"context"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
)

func TestABlobIsTakenOnlyIfItIsWhatItsNameSays(t *testing.T) {
	content := []byte("a kernel")
	sum := blake3.Sum256(content)
	good, damaged, missing := "b3-"+hex.EncodeToString(sum[:]), "b3-"+strings.Repeat("0", 64), "b3-"+strings.Repeat("1", 64)
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if strings.HasSuffix(r.URL.Path, missing) {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(content)
	}))
	defer server.Close()
	h := &host{hostConfig: hostConfig{dir: t.TempDir(), link: &controller{base: server.URL, client: server.Client()}}}
	if err := os.Mkdir(filepath.Join(h.dir, "blobs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{damaged: "damaged on the way", missing: "404"} {
		if _, err := h.fetch(t.Context(), name); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error is %v, want %q", err, text)
		}
	}
	asked = 0
	for range 2 {
		path, err := h.fetch(t.Context(), good)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != string(content) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if asked != 1 {
		t.Errorf("fetched %d times", asked)
	}
	left, err := os.ReadDir(filepath.Join(h.dir, "blobs"))
	if err != nil || len(left) != 1 || left[0].Name() != good {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestImagesThatReferToOtherFilesAreRefused(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	dir := t.TempDir()
	create := func(name string, args ...string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if _, err := qemuImg(t.Context(), append(append([]string{"create", "-q"}, args...), path, "1M")...); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := create("secret", "-f", "raw")
	for _, c := range []struct {
		name, path, text string
	}{
		{"backing file", create("backed", "-f", "qcow2", "-b", secret, "-F", "raw"), "flatten it first"},
		{"backing file without a format", create("unsafe", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw"), "/etc/passwd"},
		{"another format", create("foreign", "-f", "vmdk"), "want raw or qcow2"},
		{"not there", filepath.Join(dir, "absent"), "absent"},
	} {
		if i, err := imageInfo(t.Context(), c.path); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %+v, %v, want an error that says %q", c.name, i, err, c.text)
		}
	}
	for _, format := range []string{"raw", "qcow2"} {
		if i, err := imageInfo(t.Context(), create("good-"+format, "-f", format)); err != nil || i.Format != format || i.Size != 1<<20 {
			t.Errorf("%s: %+v, %v", format, i, err)
		}
	}
}

func TestWithoutQemuImgTheUserIsToldWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := imageInfo(context.Background(), "x"); err == nil || !strings.Contains(err.Error(), "apt-get install qemu-utils") {
		t.Errorf("error is %v", err)
	}
}
