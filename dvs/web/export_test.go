package web

// Answer is answer, for the fuzzer.
var Answer = answer
