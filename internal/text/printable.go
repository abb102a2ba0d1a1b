package text

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line is s as one line of printable text: whatever else is in it is escaped. Text that
// others chose cannot pass for lines of our own then.
func Line(s string) string {
	return string(appendPrintable(nil, []byte(s), ""))
}

// ShortLine is Line, cut after max bytes at the latest.
func ShortLine(s string, max int) string {
	if s = Line(s); len(s) > max {
		s = strings.ToValidUTF8(s[:max], "")
	}
	return s
}

// Printable returns a writer that lets lines of printable text through to w and
// escapes the rest, as in \u001b, which is right inside JSON too: nothing that was
// read from a store or a host can move a terminal's cursor, colour its screen or turn
// its text round. What begins a character that a later Write ends waits for that.
func Printable(w io.Writer) io.Writer { return &printable{w: w} }

type printable struct {
	mu   sync.Mutex
	w    io.Writer
	rest []byte // of a character that is not complete
	buf  []byte
}

func (p *printable) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := append(p.rest, b...)
	whole := len(all)
	for i := max(0, len(all)-utf8.UTFMax+1); i < len(all); i++ {
		if utf8.RuneStart(all[i]) && !utf8.FullRune(all[i:]) {
			whole = i
			break
		}
	}
	p.buf = appendPrintable(p.buf[:0], all[:whole], "\n\t")
	p.rest = append(p.rest[:0], all[whole:]...)
	if _, err := p.w.Write(p.buf); err != nil {
		return 0, err
	}
	return len(b), nil
}

// appendPrintable appends b to dst, with what is neither printable nor one of but
// escaped.
func appendPrintable(dst, b []byte, but string) []byte {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r == utf8.RuneError && n == 1:
			dst = fmt.Appendf(dst, `\x%02x`, b[0])
		case unicode.IsPrint(r) || strings.ContainsRune(but, r):
			dst = append(dst, b[:n]...)
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\t':
			dst = append(dst, `\t`...)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			dst = fmt.Appendf(dst, `\u%04x\u%04x`, hi, lo)
		default:
			dst = fmt.Appendf(dst, `\u%04x`, r)
		}
		b = b[n:]
	}
	return dst
}
