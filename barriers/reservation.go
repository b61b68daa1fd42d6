package barriers

import "fmt"

// ReservationVersion is the version of the reservation format this package writes.
const ReservationVersion = 1

const (
	// KindReserved keeps the name of a savepoint that is being made.
	KindReserved Kind = "reserved"
	// KindBuried says that what lies under a savepoint's name is being removed. Anybody may replace it.
	KindBuried Kind = "buried"
)

// Reservation stands in the place of a savepoint's manifest until that is written. It is JSON in the checkpoint bucket.
type Reservation struct {
	Version   int    `json:"version"`
	Kind      Kind   `json:"kind"`
	Tenant    string `json:"tenant"`
	Job       string `json:"job"`
	Savepoint string `json:"savepoint"`
	Epoch     uint64 `json:"epoch,omitempty"` // of the attempt that makes it; 0: no attempt does (an import, an offline edit)
	Owner     string `json:"owner"`           // the maker's nonce, and the manifest's Owner
	Request   string `json:"request,omitempty"`
}

// Encode returns the reservation's JSON. It sets Version.
func (r *Reservation) Encode() ([]byte, error) {
	r.Version = ReservationVersion
	return encodeRecord("reservation", r, r.validate, MaxMarkerBytes)
}

// DecodeReservation reads a reservation.
func DecodeReservation(data []byte) (*Reservation, error) {
	return decodeRecord[Reservation]("reservation", data, ReservationVersion, MaxMarkerBytes, (*Reservation).validate)
}

func (r *Reservation) validate() error {
	if r.Kind != KindReserved && r.Kind != KindBuried {
		return fmt.Errorf("kind %.32q is not known", r.Kind)
	}
	if err := checkText("tenant", r.Tenant, "job", r.Job, "owner", r.Owner); err != nil {
		return err
	}
	return checkSavepointName(r.Savepoint)
}
