package dump

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
)

// frameDump is what `pollux dump frame --json` prints.
type frameDump struct {
	File   string         `json:"file"`
	Offset int64          `json:"offset"`
	Frame  *frameInfo     `json:"frame"`
	List   []recordInfo   `json:"record_list"`
	Blocks []change.Block `json:"block_list"`
	Error  *damageInfo    `json:"error"`
}

type recordInfo struct {
	LSN    uint64 `json:"lsn"`
	Kind   string `json:"kind"`
	Volume uint32 `json:"volume"`
	Offset int64  `json:"offset"`
	Bytes  uint32 `json:"bytes"`
	Name   string `json:"name,omitempty"` // of a mark
}

func newDumpFrame() *cobra.Command {
	var f cli.DaemonFlags
	var offset int64
	c := &cobra.Command{Use: "frame FILE [--offset N]", Short: "Show a frame, its records and blocks",
		Args: cobra.ExactArgs(1),
		Long: `FILE may be a frame of its own, a WAL's file or a segment: --offset says where the
frame begins, as dump wal and dump segment show it.`}
	f.AddJSON(c)
	c.Flags().Int64Var(&offset, "offset", 0, "where in the file the frame begins")
	c.RunE = func(c *cobra.Command, args []string) error {
		d := frameDump{File: args[0], Offset: offset}
		err := d.read()
		d.Error = damageOf(err)
		if f.JSON {
			if perr := cli.PrintJSON(c.OutOrStdout(), d); perr != nil {
				return perr
			}
			return err
		}
		d.print(c.OutOrStdout())
		return err
	}
	return c
}

func (d *frameDump) at() string { return d.File + " at byte " + strconv.FormatInt(d.Offset, 10) }

// read reads and checks the frame; what was right before an error stays in d.
func (d *frameDump) read() error {
	b, err := readAt(d.File, d.Offset, change.HeaderBytes)
	if err != nil {
		return err
	}
	h, hash, err := change.ParseHeader(b)
	if err != nil {
		return fail.At("read", d.at(), err)
	}
	d.Frame = infoOf(&h, hash)
	if b, err = readAt(d.File, d.Offset, h.FrameBytes()); err != nil {
		return err
	}
	frame, err := change.Parse(b)
	if err != nil {
		return fail.At("read", d.at(), err)
	}
	d.Blocks = frame.BlockTable()
	plain, err := frame.Plain(nil)
	for i, r := range frame.Records {
		info := recordInfo{LSN: r.LSN, Kind: r.Kind.String(), Volume: r.Volume, Offset: r.Off, Bytes: r.Len}
		if r.Kind == change.Mark && err == nil {
			info.Name = string(frame.Data(i, plain))
		}
		d.List = append(d.List, info)
	}
	return fail.At("read", d.at(), err)
}

// readAt reads up to n bytes; fewer where the file ends.
func readAt(path string, off int64, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError("open", path, err)
	}
	defer f.Close()
	if off < 0 {
		return nil, fail.New(fail.Invalid, "read", path, "the offset is negative")
	}
	b := make([]byte, n)
	got, err := f.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fileError("read", path, err)
	}
	return b[:got], nil
}

func fileError(op, path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fail.Wrap(fail.NotFound, op, path, err)
	case errors.Is(err, os.ErrPermission):
		return fail.Wrap(fail.Denied, op, path, err)
	}
	return fail.Wrap(fail.Invalid, op, path, err)
}

func (d *frameDump) print(w io.Writer) {
	if d.Frame == nil {
		return
	}
	fmt.Fprintf(w, "%s, %d bytes\n", d.Frame, d.Frame.Bytes)
	if d.List == nil {
		return
	}
	rows := [][]string{{"LSN", "KIND", "VOLUME", "OFFSET", "BYTES", "NAME"}}
	for _, r := range d.List {
		rows = append(rows, []string{fmt.Sprint(r.LSN), r.Kind, fmt.Sprint(r.Volume), fmt.Sprint(r.Offset),
			fmt.Sprint(r.Bytes), r.Name})
	}
	text.Table(w, rows)
	rows = [][]string{{"BLOCK AT", "STORED", "PLAIN", "CRC-32C"}}
	for _, b := range d.Blocks {
		rows = append(rows, []string{fmt.Sprint(b.Offset), fmt.Sprint(b.StoredBytes), fmt.Sprint(b.PlainBytes),
			fmt.Sprintf("%08x", b.CRC)})
	}
	text.Table(w, rows)
	if d.Error == nil {
		fmt.Fprintln(w, "all checksums are right")
	}
}
