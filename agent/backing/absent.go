package backing

// Absent stands for a backing that could not be opened: every call on it returns
// err.
func Absent(err error) Backing { return absent{err} }

type absent struct{ err error }

func (a absent) ReadAt([]byte, int64) error             { return a.err }
func (a absent) WriteAt([]byte, int64) error            { return a.err }
func (a absent) Zero(int64, int64, bool) error          { return a.err }
func (a absent) StartSync(int64, int64)                 {}
func (a absent) Forget(int64, int64)                    {}
func (a absent) Sync() error                            { return a.err }
func (a absent) Unsynced()                              {}
func (a absent) SizeBytes() int64                       { return 0 }
func (a absent) Data(int64) (start, n int64, err error) { return 0, 0, a.err }
func (a absent) Whole() error                           { return nil }
func (a absent) SetIdentity(string, string) error       { return a.err }
func (a absent) HasIdentity(string) bool                { return false }
func (a absent) ClearIdentity(string) error             { return nil }
func (a absent) Close() error                           { return nil }
