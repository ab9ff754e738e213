// Mkinitrd writes the lab guest's initial RAM disk; see lab/guest/image.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/godwit-project/godwit/lab/guest/image"
)

func main() {
	modules := flag.String("modules", "", "the kernel's modules: `DIR`/lib/modules/VERSION")
	program := flag.String("program", "", "the guest's static program: `FILE`")
	output := flag.String("output", "", "where the initial RAM disk goes: `FILE`")
	flag.Parse()
	if *modules == "" || *program == "" || *output == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := build(*modules, *program, *output); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitrd:", err)
		os.Exit(1)
	}
}

// build leaves a whole file at output or none: it is renamed into place.
func build(modules, program, output string) error {
	partial := output + ".partial"
	f, err := os.Create(partial)
	if err != nil {
		return err
	}
	if err := errors.Join(image.Build(f, modules, program), f.Close()); err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return os.Rename(partial, output)
}
