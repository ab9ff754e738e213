// Package godwit is the root of the module: it holds no code of the program, only the tests that keep the house in
// order (who may import whom, one package comment per room).
package godwit
