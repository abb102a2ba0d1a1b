package journal

import "github.com/google/uuid"

// fsmHost is what the FSM needs of the member in which it runs. Raft's goroutines call
// it; fatal may come while the FSM's lock is held, the others come without it. None may
// wait for Raft, which waits for the FSM.
type fsmHost struct {
	// syncLog makes Raft's log durable, unsynced entries too: a snapshot must not be
	// ahead of it.
	syncLog func() error
	// holdLog keeps Raft's log from being freed until release is called, so that a
	// snapshot finds the frames that it names.
	holdLog func() (release func())
	// frame reads the bytes of an entry, for a snapshot. The log is held meanwhile.
	frame func(e *Entry) ([]byte, error)
	// named is told after every batch who the journal is, nil while nobody knows. When it
	// returns, the member will know it after a crash too.
	named func(journal uuid.UUID)
	// changed is told that a batch was applied, and that questions about it are answered.
	changed func()
	// fatal is told why nothing more is applied in this process.
	fatal func(error)
}
