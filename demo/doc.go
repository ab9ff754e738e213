// Package demo plays scenarios on a lab of their own: it does what a user would do, looks at what a client and an operator
// would see, says whether anything was lost, and takes the lab down. A scenario is both a demonstration and the strictest
// test of the whole: it uses the API, the lab and the probe, and must not know anything of the inside.
package demo
