// Package controller is the migration management system: it serves the API, holds the sessions of the agents, starts
// and deletes services, and runs migrations. One per site, or one in all.
//
// It decides nothing about the order of a migration: that is package migration, pure. The controller is its runner, with
// the runner's duties: persist a decision before acting on it, carry out the actions, feed the answers back. All that
// must outlive the process stands in the store (package cluster); what is kept in memory beside it (progress, sessions,
// steps under way) is found out again by asking the agents.
//
// What may not enter: anything that touches a machine, a disk or a route. That is the agents' side.
package controller
