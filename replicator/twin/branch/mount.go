package branch

import (
	"context"
	"errors"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/mount"
)

// Device is a volume as the site of the branch had it last: the log at the base, and over it the
// branch's extents. It never changes either.
type Device struct {
	*mount.Device
	info block.Info
}

var _ block.Device = (*Device)(nil)

// Mount makes a device of a branch's volume over the image of its base, which stays the caller's to
// close, after the device. What the branch has is copied to the mount's scratch file. With
// o.Writable the device takes writes, which are gone with it.
func (b *Branch) Mount(ctx context.Context, state string, v *Volume, image *twin.Image, o mount.Options) (
	_ *Device, err error) {
	p := image.Point
	if p.LSN != b.Base(v).LSN || p.Volume.Number != v.Number || p.Volume.Stream != v.Stream ||
		p.Volume.SizeBytes != v.SizeBytes {
		return nil, fail.New(fail.Invalid, "mount branch", b.ID, "the image is not the base of volume "+v.Name)
	}
	writable := o.Writable
	o.Writable = true
	m, err := mount.New(image, o)
	if err != nil {
		return nil, err
	}
	d := &Device{Device: m, info: m.Info()}
	d.info.ReadOnly = !writable
	if err := b.Each(state, v, func(e Extent) error { return d.put(ctx, e) }); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return d, nil
}

// put writes an extent of the branch.
func (d *Device) put(ctx context.Context, e Extent) error {
	if e.Data == nil {
		return d.Device.Zero(ctx, e.Off, e.Len, false, false)
	}
	for n := 0; n < len(e.Data); {
		k := min(len(e.Data)-n, block.MaxWriteBytes)
		buf, err := d.Device.Prepare(ctx, k)
		if err != nil {
			return err
		}
		at := n
		for _, p := range buf.Pieces() {
			at += copy(p, e.Data[at:])
		}
		if err := d.Device.Write(ctx, buf, e.Off+int64(n), false); err != nil {
			return err
		}
		n += k
	}
	return nil
}

// Info implements block.Device.
func (d *Device) Info() block.Info { return d.info }

func (d *Device) refused() error {
	if !d.info.ReadOnly {
		return nil
	}
	return fail.New(fail.Refused, "write", d.info.Description, "it is mounted read-only").
		WithHint("mount it with --writable")
}

// Prepare implements block.Device.
func (d *Device) Prepare(ctx context.Context, n int) (block.Buffer, error) {
	if err := d.refused(); err != nil {
		return nil, err
	}
	return d.Device.Prepare(ctx, n)
}

// Zero implements block.Device.
func (d *Device) Zero(ctx context.Context, off, n int64, noHole, fua bool) error {
	if err := d.refused(); err != nil {
		return err
	}
	return d.Device.Zero(ctx, off, n, noHole, fua)
}

// Trim implements block.Device.
func (d *Device) Trim(ctx context.Context, off, n int64, fua bool) error {
	return d.Zero(ctx, off, n, false, fua)
}
