package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// The judges are other people's NBD clients. A missing one is a failure: a
// protocol that only we have tried is not tested.

const judgeBytes = 64 << 20

// judge runs a tool and returns its standard output.
func judge(t *testing.T, apt, tool string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Fatalf("%s is missing: apt-get install %s", tool, apt)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = t.TempDir()
	// libnbd's module belongs to Debian's own python3, which must come first.
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:"+os.Getenv("PATH"), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", tool, strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String()
}

// judged serves a sparse file and returns its path and a URI.
func judged(t *testing.T) (path, uri string) {
	t.Helper()
	path = tempFile(t, judgeBytes)
	dev, err := block.OpenFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	_, socket := serve(t, Options{Exports: exports{"disk": dev}})
	return path, "nbd+unix:///disk?socket=" + socket
}

func TestJudgeNBDInfo(t *testing.T) {
	path, uri := judged(t)
	ours := judge(t, "libnbd-bin", "nbdinfo", uri)
	theirs := judge(t, "nbdkit", "nbdkit", "-U", "-", "file", path, "--run", "nbdinfo $uri")
	have := make(map[string]bool)
	for line := range strings.Lines(ours) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " (") // newer versions add the size for people
		have[line] = true
	}
	for line := range strings.Lines(theirs) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " (")
		capability := strings.HasPrefix(line, "can_") || strings.HasPrefix(line, "is_") ||
			strings.HasPrefix(line, "protocol:") || strings.HasPrefix(line, "export-size:") || line == "base:allocation"
		if capability && !have[line] && line != "can_fast_zero: false" {
			t.Errorf("nbdkit's %q is missing in:\n%s", line, ours)
		}
	}
	for _, line := range []string{
		"can_fast_zero: true", "block_size_minimum: 1", "block_size_preferred: 4096", "block_size_maximum: 33554432",
	} {
		if !have[line] {
			t.Errorf("%q is missing in:\n%s", line, ours)
		}
	}
}

func TestJudgeNBDInfoListAndMap(t *testing.T) {
	_, uri := judged(t)
	list := judge(t, "libnbd-bin", "nbdinfo", "--list", uri)
	for _, want := range []string{`export="disk":`, "description: unprotected", "base:allocation"} {
		if !strings.Contains(list, want) {
			t.Errorf("%q is missing in:\n%s", want, list)
		}
	}
	c, err := nbdclient.Dial(t.Context(), uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.WriteAt(t.Context(), pattern(1<<20, 1), 2<<20, nbdclient.FUA); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(judge(t, "libnbd-bin", "nbdinfo", "--map", uri)) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := "0 2097152 3 hole,zero; 2097152 1048576 0 data; 3145728 63963136 3 hole,zero"
	if s := strings.Join(got, "; "); s != want {
		t.Errorf("map %q, want %q", s, want)
	}
}

func TestJudgeNBDCopy(t *testing.T) {
	path, uri := judged(t)
	src := filepath.Join(t.TempDir(), "src")
	data := make([]byte, judgeBytes)
	copy(data[1<<20:], pattern(20<<20, 1))
	copy(data[40<<20:], pattern(10<<20+777, 2))
	if err := os.WriteFile(src, data, 0o600); err != nil {
		t.Fatal(err)
	}
	judge(t, "libnbd-bin", "nbdcopy", "--flush", src, uri)
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "copied in", got, data)
	dst := filepath.Join(t.TempDir(), "dst")
	judge(t, "libnbd-bin", "nbdcopy", uri, dst)
	judge(t, "diffutils", "cmp", src, dst)
}

func TestJudgeNBDSh(t *testing.T) {
	_, uri := judged(t)
	script := `
import errno
def refused(e, f):
    try:
        f()
    except nbd.Error as x:
        assert x.errnum == e, (x, e)
    else:
        assert False, "not refused"

h.set_strict_mode(0)
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri("` + uri + `")
size = h.get_size()
assert h.can_fua() and h.can_multi_conn() and h.can_fast_zero() and h.can_df() and h.can_cache()
a = bytes([7]) * 65536
h.pwrite(a, 1000, nbd.CMD_FLAG_FUA)
assert h.pread(65536, 1000) == a
assert h.pread(65536, 1000, nbd.CMD_FLAG_DF) == a
h.zero(5000, 2000, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(6000, 1000) == bytes([7]) * 1000 + bytes(5000)
h.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO)
h.trim(8192, 16384, nbd.CMD_FLAG_FUA)
assert h.pread(8192, 16384) == bytes(8192)
h.cache(1 << 20, 0)
h.flush()
got = []
def chunk(buf, off, status, err):
    got.append((off, len(buf), status))
h.pread_structured(1 << 20, 0, chunk)
assert sum(n for _, n, _ in got) == 1 << 20, got
ext = []
h.block_status(1 << 20, 0, lambda m, o, e, err: ext.append((m, o, e)))
assert ext[0][0] == "base:allocation" and sum(ext[0][2][::2]) <= 1 << 20
ext = []
h.block_status(1 << 20, 0, lambda m, o, e, err: ext.append(e), nbd.CMD_FLAG_REQ_ONE)
assert len(ext[0]) == 2
refused(errno.EINVAL, lambda: h.pread(2, size - 1))
refused(errno.ENOSPC, lambda: h.pwrite(b"xx", size - 1))
refused(errno.ENOSPC, lambda: h.zero(2, size - 1))
refused(errno.EINVAL, lambda: h.trim(2, size - 1))
refused(errno.EINVAL, lambda: h.pwrite(b"xx", 0, 1 << 9))
refused(errno.EOVERFLOW, lambda: h.pread(2 << 20, 0, nbd.CMD_FLAG_DF))
h.shutdown()
print("fine")
`
	if out := judge(t, "python3-libnbd libnbd-bin", "nbdsh", "-c", script); !strings.Contains(out, "fine") {
		t.Errorf("nbdsh says %q", out)
	}
}

func TestJudgeQEMUIO(t *testing.T) {
	_, uri := judged(t)
	out := judge(t, "qemu-utils", "qemu-io", "-f", "raw", "-d", "unmap", uri,
		"-c", "write -P 0x5a 0 1M",
		"-c", "write -P 0x11 -f 1M 64k",
		"-c", "flush",
		"-c", "read -P 0x5a 0 1M",
		"-c", "read -P 0x11 1M 64k",
		"-c", "discard 0 256k",
		"-c", "read -P 0 0 256k",
		"-c", "write -z 256k 256k",
		"-c", "write -z -u 512k 64k",
		"-c", "read -P 0 256k 320k",
		"-c", "read -P 0x5a 576k 448k",
		"-c", "aio_write -P 0x33 8M 4M",
		"-c", "aio_write -P 0x34 12M 4M",
		"-c", "aio_flush",
		"-c", "read -P 0x33 8M 4M",
		"-c", "read -P 0x34 12M 4M",
	)
	if strings.Contains(out, "verification failed") || strings.Contains(out, "rror") {
		t.Errorf("qemu-io says:\n%s", out)
	}
}

func TestJudgeQEMUImg(t *testing.T) {
	path, uri := judged(t)
	src := filepath.Join(t.TempDir(), "src")
	data := make([]byte, judgeBytes)
	copy(data[3<<20:], pattern(30<<20, 9))
	if err := os.WriteFile(src, data, 0o600); err != nil {
		t.Fatal(err)
	}
	judge(t, "qemu-utils", "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", src, uri)
	judge(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "raw", src, uri)
	judge(t, "diffutils", "cmp", src, path)
	out := filepath.Join(t.TempDir(), "out.qcow2")
	judge(t, "qemu-utils", "qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, out)
	judge(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "qcow2", src, out)
}

func TestJudgeFio(t *testing.T) {
	_, uri := judged(t)
	judge(t, "fio", "fio", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--verify=crc32c", "--do_verify=1",
		"--verify_fatal=1", "--fsync=32", "--bsrange=512-128k", "--bs_unaligned", "--iodepth=16", "--size=8M",
		"--offset_increment=8M",
		"--numjobs=4", "--group_reporting", "--name=verify", "--output-format=terse")
}

// Over TCP there is TLS by STARTTLS, and with RequireTLS nothing else.
func TestJudgeTLS(t *testing.T) {
	path := tempFile(t, judgeBytes)
	dev, err := block.OpenFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pki := newPKI(t)
	serveOn(t, Options{Exports: exports{"disk": dev}, TLS: pki.server, RequireTLS: true}, l)
	addr := l.Addr().(*net.TCPAddr)

	uri := fmt.Sprintf("nbds://localhost:%d/disk?tls-certificates=%s", addr.Port, pki.dir)
	if out := judge(t, "libnbd-bin", "nbdinfo", uri); !strings.Contains(out, "newstyle-fixed with TLS") {
		t.Errorf("nbdinfo says:\n%s", out)
	}
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, pattern(judgeBytes, 5), 0o600); err != nil {
		t.Fatal(err)
	}
	judge(t, "libnbd-bin", "nbdcopy", src, uri)
	judge(t, "diffutils", "cmp", src, path)
	judge(t, "qemu-utils", "qemu-io", "--object", "tls-creds-x509,id=tls0,endpoint=client,dir="+pki.dir,
		"--image-opts", fmt.Sprintf("driver=nbd,host=localhost,port=%d,export=disk,tls-creds=tls0", addr.Port),
		"-c", "write -P 0x77 5M 2M", "-c", "read -P 0x77 5M 2M")

	c, err := nbdclient.Dial(t.Context(), fmt.Sprintf("nbds://localhost:%d/disk", addr.Port), pki.client)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2<<20)
	if err := c.ReadAt(t.Context(), got, 5<<20); err != nil {
		t.Error(err)
	}
	wantBytes(t, "read by TLS", got, bytes.Repeat([]byte{0x77}, len(got)))
	_ = c.Close()

	// Plain text gets no further than the refusal.
	if c, err := nbdclient.Dial(t.Context(), fmt.Sprintf("nbd://localhost:%d/disk", addr.Port), nil); err == nil {
		_ = c.Close()
		t.Error("plain text is served")
	}
	w := greetWire(t, "tcp", addr.String())
	for _, id := range []uint32{optList, optInfo, optGo, optStructuredReply, optListMetaContext, 99} {
		w.option(id, nil)
		w.wantReplies(id, repErrTLSReqd)
	}
	w.option(optExportName, []byte("disk"))
	w.wantClosed()

	// Requests sent ahead in plain text are not taken into the TLS session.
	w = greetWire(t, "tcp", addr.String())
	w.write(append(optionMessage(optStartTLS, nil), optionMessage(optGo, goData("disk"))...))
	w.wantClosed()
}

type pki struct {
	dir            string // as GnuTLS clients want it
	server, client *tls.Config
}

func newPKI(t *testing.T) pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "localhost"},
		DNSNames:              []string{"localhost"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	p := pki{dir: t.TempDir()}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(p.dir, "ca-cert.pem"), cert, 0o600); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	p.server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	p.client = &tls.Config{RootCAs: pool}
	return p
}
