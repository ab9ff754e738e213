// Package acceptance holds the claims that Godwit makes to its users, as tests (build tag lab). Each drives the built
// binary alone, in labs of its own, as a user could: commands, their output, signals to processes, a client's connection,
// and what a look into the namespaces and folders shows afterwards. Nothing of the inside of Godwit may be imported; the
// probe's report, which the command prints as JSON, is the one type that is shared.
//
// The environment settles the rest: GODWIT_BIN is the binary (default ../../bin/godwit, with the guest beside it), and
// GODWIT_SOAK=1 asks for the long form: ten round trips, and every process killed in every phase.
package acceptance
