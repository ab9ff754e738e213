// Package network is the network half of a migration, in two parts that run on different machines.
//
// The edge half ([Edge]) runs where a site's traffic enters. It routes every service's addresses to the host that
// runs it, announces them to the provider by BGP, and at a migration holds traffic, switches it locally into a
// tunnel to the other edge, and takes the detour down when routers have learnt the direct way. Its caller drives it
// in this order:
//
//	source:       PrepareTunnel · Hold · LetGo · WaitIdle · Withdraw · Release      (abort: Restore)
//	destination:  PrepareTunnel · Activate · Announce · Release                      (abort: Drop)
//
// The host half ([Host]) runs where virtual servers run. It gives each one a tap with the same link-local gateway
// on every host, so that nothing in the guest changes when it moves, answers its DHCP, and holds the gate: what
// stands between a server that was stopped and the world.
//
// Every call is idempotent and may be sent again after a restart. All state is in the kernel and in a journal in
// Dir: the process may be killed at any moment, traffic flows on, and the next one takes up what is there.
//
// What may not enter: knowledge of migrations' phases, of servers or volumes, of who decides. Nothing of ours is
// imported, no program is started; the kernel is spoken to by netlink, bpf and the tun device alone.
package network
