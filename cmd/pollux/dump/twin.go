package dump

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/pack"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// newDumpTwin makes the verb that shows one kind of the twin's objects. show returns
// what --json prints, and prints the same for people.
func newDumpTwin(kind, short string, show func(w io.Writer, b []byte) (any, error)) *cobra.Command {
	var f cli.DaemonFlags
	var s cli.StoreFlags
	c := &cobra.Command{Use: kind + " FILE | " + kind + " --store URL NAME", Short: short, Args: cobra.ExactArgs(1)}
	f.AddJSON(c)
	s.Add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		name, b, err := readNamed(c, &s, kind, args[0])
		if err != nil {
			return err
		}
		w := c.OutOrStdout()
		if f.JSON {
			w = io.Discard // the object only
		}
		v, err := show(w, b)
		if err = fail.At("read", name, err); f.JSON && v != nil {
			err = errors.Join(cli.PrintJSON(c.OutOrStdout(), v), err)
		}
		return err
	}
	return c
}

// readNamed reads a file, or an object by its name; the kind before it may be left out.
func readNamed(c *cobra.Command, s *cli.StoreFlags, kind, arg string) (name string, b []byte, err error) {
	if s.URL == "" {
		if b, err = os.ReadFile(arg); err != nil {
			return arg, nil, fileError("read", arg, err)
		}
		return arg, b, nil
	}
	store, done, err := cli.OpenStore(c.Context(), s)
	if err != nil {
		return "", nil, err
	}
	defer done()
	if !strings.HasPrefix(arg, kind+"/") {
		if kind != "map" && len(arg) < 20 {
			arg = strings.Repeat("0", 20-len(arg)) + arg
		}
		arg = kind + "/" + arg
	}
	b, err = objstore.ReadWhole(c.Context(), store, arg, catalog.MaxBytes)
	return store.URL() + "/" + arg, b, err
}

func newDumpCatalog() *cobra.Command {
	return newDumpTwin("catalog", "Show a catalog: where the log can be read from, what is kept, what is dead",
		func(w io.Writer, b []byte) (any, error) {
			x, err := catalog.Decode(b)
			if err != nil {
				return nil, err
			}
			end := x.End()
			fmt.Fprintf(w, "catalog %d of journal %s, made %s: the log up to position %d, journal index %d, %v\n",
				x.Number, x.Journal, x.Created.Format(time.RFC3339), end.Position, end.Index, end.Token)
			fmt.Fprintf(w, "readable from %d marks, the first at position %d; %d fences, %d packs, %d dead objects\n",
				len(x.ReadPoints), x.ReadPoints[0].Position, len(x.Fences), len(x.Packs), len(x.Dead))
			for id, s := range x.Streams {
				fmt.Fprintf(w, "stream %s: %d points kept\n", id, len(s.Retained))
				for _, k := range s.Retained {
					fmt.Fprintf(w, "  LSN %d, %s %s\n", k.LSN,
						time.Unix(0, k.Time).UTC().Format(time.RFC3339Nano), k.Bookmark)
				}
				for number, v := range s.Volumes {
					for i := range v.Layers {
						y := &v.Layers[i]
						fmt.Fprintf(w, "  volume %d, LSN %d to %d, whole %v: %d extents in %d objects\n",
							number, y.From, y.To, y.Whole, y.Extents(), len(y.Objects))
					}
				}
			}
			return x, nil
		})
}

// mapDump is what `pollux dump map --json` prints.
type mapDump struct {
	Head    extent.MapHead `json:"head"`
	Extents []mapExtent    `json:"extents"`
}

type mapExtent struct {
	Offset   int64  `json:"offset"`
	Bytes    int64  `json:"bytes"`
	Zeros    bool   `json:"zeros,omitempty"`
	Position uint64 `json:"position,omitempty"`
	Block    uint32 `json:"block,omitempty"` // its offset in the object
	At       uint32 `json:"at,omitempty"`    // in the block's plain bytes
}

func newDumpMap() *cobra.Command {
	return newDumpTwin("map", "Show a map: where the bytes of a volume lie", func(w io.Writer, b []byte) (any, error) {
		d := mapDump{Extents: []mapExtent{}}
		var err error
		d.Head, err = extent.WalkMap(b, func(leaf int64, extents []extent.Extent) error {
			for i := range extents {
				e := &extents[i]
				x := mapExtent{Offset: e.Off, Bytes: e.Len, Zeros: e.Zeros(), Position: uint64(e.Block.Object),
					Block: e.Block.Offset, At: e.At}
				d.Extents = append(d.Extents, x)
				if x.Zeros {
					fmt.Fprintf(w, "%d bytes at %d: zeros\n", x.Bytes, x.Offset)
				} else {
					fmt.Fprintf(w, "%d bytes at %d: position %d, block at %d, from byte %d of it\n", x.Bytes, x.Offset,
						x.Position, x.Block, x.At)
				}
			}
			return nil
		})
		h := &d.Head
		fmt.Fprintf(w, "volume %d of stream %s, LSN %d to %d, whole %v, part %d: %d extents, %s\n", h.Volume, h.Stream,
			h.From, h.To, h.Whole, h.Part, len(d.Extents), text.Bytes(int64(len(b))))
		return d, err
	})
}

func newDumpPack() *cobra.Command {
	return newDumpTwin("pack", "Show a pack: blocks that garbage collection moved",
		func(w io.Writer, b []byte) (any, error) {
			number := uint64(0)
			if len(b) >= pack.HeadBytes {
				number = pack.NumberOf(b)
			}
			x, err := pack.Check(b, number)
			if err != nil {
				return nil, err
			}
			for _, p := range x.Pieces {
				fmt.Fprintf(w, "%d bytes of position %d, block at %d, byte %d: block %d, byte %d\n", p.Len, p.Object,
					p.Offset, p.At, p.Block, p.NewAt)
			}
			fmt.Fprintf(w, "pack %d of journal %s: %d blocks, %d pieces, %s\n", x.Number, x.Journal, len(x.Blocks),
				len(x.Pieces), text.Bytes(int64(len(b))))
			return x, nil
		})
}
