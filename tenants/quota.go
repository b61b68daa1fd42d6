package tenants

import (
	"errors"
	"fmt"
)

// Quota bounds what one job may use, so that no tenant can take the process down. Zero fields mean the default.
type Quota struct {
	// StateBytes bounds the encoded size of the job's keyed state in memory. Default: 1 GiB.
	StateBytes int64
	// PendingBytes bounds the output staged since the last checkpoint. Half of it starts a checkpoint early; at the bound the
	// job stops reading until the checkpoint is released. Default: 256 MiB.
	PendingBytes int64
	// KeyBytes bounds one key. Records with a larger one are poison. Default: 1024.
	KeyBytes int
}

// Defaults of a Quota.
const (
	DefaultStateBytes   = 1 << 30
	DefaultPendingBytes = 256 << 20
	DefaultKeyBytes     = 1024
)

// WithDefaults fills in zero fields.
func (q Quota) WithDefaults() Quota {
	if q.StateBytes == 0 {
		q.StateBytes = DefaultStateBytes
	}
	if q.PendingBytes == 0 {
		q.PendingBytes = DefaultPendingBytes
	}
	if q.KeyBytes == 0 {
		q.KeyBytes = DefaultKeyBytes
	}
	return q
}

// Validate reports all problems at once.
func (q Quota) Validate() error {
	var errs []error
	if q.StateBytes < 1 {
		errs = append(errs, fmt.Errorf("quota: state bytes is %d: use at least 1", q.StateBytes))
	}
	if q.PendingBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("quota: pending bytes is %d: use at least 1 MiB", q.PendingBytes))
	}
	if q.KeyBytes < 1 || q.KeyBytes > 64<<10 {
		errs = append(errs, fmt.Errorf("quota: key bytes is %d: use 1 to 65536", q.KeyBytes))
	}
	return errors.Join(errs...)
}
