package migration

// VirtualMachine returns the plan for a virtual machine with replicated volumes and routed addresses. The reasons for
// its order stand beside the steps; the price of each is in DESIGN.md.
func VirtualMachine() Plan {
	return Plan{Kind: "virtual-machine", Steps: []PlannedStep{
		// The replica exists before the source streams into it, and before a waiting QEMU opens it. The tunnel's far
		// end listens before the near end sends.
		step(Preparing, "storage/destination/prepare"),
		step(Preparing, "network/destination/prepare"),
		step(Preparing, "network/source/prepare", "network/destination/prepare"),
		step(Preparing, "storage/source/prepare", "storage/destination/prepare"),
		step(Preparing, "server/destination/prepare", "storage/destination/prepare"),
		step(Preparing, "server/source/prepare", "server/destination/prepare"),

		// The disk in bulk first: memory copied early is dirty again before a big disk has arrived.
		step(Converging, "storage/source/converge"),
		step(Converging, "server/source/converge", "storage/source/converge"),

		// After a hold the memory has to catch up, while writes are still cheap; storage turns synchronous last. (Both at the
		// same time was tried: the blackout did not get shorter, and the guest's writes were slow for longer.)
		step(Synchronizing, "server/source/synchronize"),
		step(Synchronizing, "storage/source/synchronize", "server/source/synchronize"),

		// Traffic is held before the guest stops, for a stopped QEMU swallows packets. The source volume is fenced
		// when its guest has stopped; the destination has loaded, and its volume is complete, before the commit.
		step(Quiesced, "network/source/quiesce"),
		step(Quiesced, "server/source/quiesce", "network/source/quiesce"),
		step(Quiesced, "server/destination/quiesce", "network/source/quiesce"),
		step(Quiesced, "storage/source/quiesce", "server/source/quiesce"),
		step(Quiesced, "storage/destination/quiesce", "storage/source/quiesce"),

		// The volume accepts writes before the guest runs: the host's agent, which does both, sees to that, and waits for no
		// round trip to us in the middle of the blackout. Held traffic is let go into the tunnel at the same time: its far
		// end has delivered since it was built, and the destination's host has let in what is for the guest since that was
		// loaded. What comes before the guest runs waits in its queue.
		step(Committed, "storage/destination/commit"),
		step(Committed, "network/destination/commit"),
		step(Committed, "server/destination/commit"),
		step(Committed, "network/source/commit"),

		// The destination announces before the source withdraws. What the source kept is cleared away when nothing needs
		// its site any more: the work of it, just after Commit, would stand in the way of the guest's first moments. The
		// tunnel goes last.
		step(Optimizing, "network/destination/optimize"),
		step(Optimizing, "network/source/optimize", "network/destination/optimize"),
		step(Optimizing, "server/source/release", "network/source/optimize"),
		step(Optimizing, "storage/source/release", "server/source/release"),
		step(Optimizing, "storage/destination/release", "storage/source/release"),
		step(Optimizing, "server/destination/release"),
		step(Optimizing, "network/source/release", "network/source/optimize", "server/source/release",
			"storage/source/release", "storage/destination/release", "server/destination/release"),
		step(Optimizing, "network/destination/release", "network/source/release"),

		// Traffic goes back only to a running guest, and the guest runs only on an open volume. Nothing at the source
		// waits for the destination.
		step(Aborting, "storage/source/abort"),
		step(Aborting, "server/source/abort", "storage/source/abort"),
		step(Aborting, "network/source/abort", "server/source/abort"),
		step(Aborting, "server/destination/abort"),
		step(Aborting, "storage/destination/abort", "server/destination/abort"),
		step(Aborting, "network/destination/abort"),
	}}
}

func step(ph Phase, id StepID, after ...StepID) PlannedStep {
	return PlannedStep{ID: id, Phase: ph, After: after}
}
