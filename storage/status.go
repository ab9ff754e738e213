package storage

// Roles of a volume, as they are written to disk and reported.
const (
	// RolePrimary is the one copy that may be written by clients.
	RolePrimary = "primary"
	// RoleReplica is a copy in the making: read-only to clients until promoted.
	RoleReplica = "replica"
	// RoleFenced is a former primary that accepts nothing more until it is unfenced or deleted.
	RoleFenced = "fenced"
)

// Modes of a primary's replication.
const (
	// ModeLocal means that no other site has a copy in the making.
	ModeLocal = "local"
	// ModeAsync means that writes are acknowledged locally and shipped later.
	ModeAsync = "async"
	// ModeFlush means that writes are acknowledged locally, and that a flush, or a write with FUA, waits until everything
	// acknowledged before it is on stable storage at both ends. Only groups have it.
	ModeFlush = "flush"
	// ModeSync means that each write is on stable storage at both ends before it is acknowledged.
	ModeSync = "sync"
)

// Spec says what volume to make.
type Spec struct {
	// Name is unique within the store: letters a-z, digits, dot and dash, at most 100 characters.
	Name string
	// Size in bytes, a positive multiple of 512.
	Size int64
	// Device is the path of a block device that the volume is to lie on, from its beginning; empty for a file of the store. What is
	// on it is taken as it is.
	Device string `json:",omitempty"`
	// Overwrite says that what is on the device is about to be written over, which is refused with [ErrNotBlank] if there is
	// something. Replicas are made so in any case.
	Overwrite bool `json:",omitempty"`
}

// Status is a snapshot of a volume. All sizes are in bytes.
type Status struct {
	Name string
	Size int64
	// Allocated is what the base file occupies on disk.
	Allocated int64
	Role      string
	// Epoch is the one that the volume is bound to: the owner's for a primary, the attempt's for a replica or a fenced
	// volume.
	Epoch uint64
	Mode  string
	// Dirty is what the other end does not have yet, what is under way to it included.
	Dirty int64
	// Copied is what the other end has confirmed (on a replica: what has been applied) since the session began; Total is
	// Copied plus Dirty.
	Copied, Total int64
	// Rate is the recent speed of confirmed content, bytes per second.
	Rate int64
	// Shipped is what went over the link since the session began, headers and repetitions included.
	Shipped int64
	// Complete says, on a replica, that the completion marker of its epoch is durable here; on a fenced volume, that the
	// other end has confirmed it.
	Complete bool
	// Connected says that the replication link is up.
	Connected bool
	// Path is the base file, or block device: plain raw, readable without this program.
	Path string
	// Device says that it is a block device.
	Device bool
	// Socket is where the volume is exported, empty when it is not.
	Socket string
	// Clients is the number of open NBD connections.
	Clients int
	// Err is the last trouble, empty when all is well.
	Err string
}
