package lab

import (
	"errors"
	"fmt"
)

// validate gathers every fault, so that a user mends them all at once.
func (c Config) validate() error {
	var faults []error
	if !namePattern.MatchString(c.Name) {
		faults = append(faults, fmt.Errorf("name %q: use 1 to 12 lower-case letters, digits and dashes", c.Name))
	}
	if c.Loss < 0 || c.Loss >= 1 {
		faults = append(faults, fmt.Errorf("loss %v: must be at least 0 and below 1 (0.01 loses one frame in a hundred)", c.Loss))
	}
	if c.Controllers != 1 {
		faults = append(faults, fmt.Errorf("controllers %d: the lab runs exactly 1 for now", c.Controllers))
	}
	if c.MTU < 1280 || c.MTU > 9000 {
		faults = append(faults, fmt.Errorf("MTU %d: must lie between 1280 and 9000", c.MTU))
	}
	if c.Bandwidth > 0 && c.Bandwidth < 64_000 {
		faults = append(faults, fmt.Errorf("bandwidth %d bit/s: at least 64000, or negative for no limit", c.Bandwidth))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("lab configuration: %w", err)
	}
	return nil
}
