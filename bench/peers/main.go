// Command peers measures Raft log stores of others with Pollux's harness. It is
// a module of its own, so that none of them is a dependency of the product;
// `pollux bench journal` builds and runs it in a source checkout.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"
	raftwal "github.com/hashicorp/raft-wal"

	"github.com/pollux-dr/pollux/bench/raftbench"
)

var stores = map[string]raftbench.Store{
	"raft-wal": func(dir string) (raft.LogStore, func() error, error) {
		w, err := raftwal.Open(dir)
		if err != nil {
			return nil, nil, err
		}
		return w, w.Close, nil
	},
	"raft-boltdb": func(dir string) (raft.LogStore, func() error, error) {
		s, err := boltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	},
}

func main() {
	name := flag.String("store", "", "raft-wal or raft-boltdb")
	var l raftbench.Load
	flag.StringVar(&l.Dir, "dir", "", "where to make the temporary directory")
	flag.IntVar(&l.EntryBytes, "entry-bytes", 64<<10, "size of an entry")
	flag.IntVar(&l.InFlight, "in-flight", 16, "entries at once")
	flag.Float64Var(&l.Seconds, "seconds", 3, "length of the run")
	flag.Parse()
	open := stores[*name]
	if open == nil {
		fmt.Fprintln(os.Stderr, "peers: no such store:", *name)
		os.Exit(2)
	}
	r, err := raftbench.Run(*name, open, l)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}
