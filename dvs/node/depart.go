package node

// Depart says that the process of that id, with all that it is, goes on at another node, and is about to be ended here: its callers have not
// ended, so that nobody forgets what was answered to them. Call it when its endpoints have left.
func (n *Node) Depart(pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.sessions {
		if s.program.PID != pid {
			continue
		}
		for c := range s.callers {
			delete(n.callers, c)
		}
		clear(s.callers)
	}
}
