package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/controller"
)

// defaultControllerData is where a controller keeps what must outlive it.
const defaultControllerData = "/var/lib/godwit/controller"

func (a *app) initCommand() *cobra.Command {
	var data, name string
	cmd := &cobra.Command{
		Use:   "init --data DIR",
		Short: "Make a new cluster: its CA and the first identities",
		Long: `Make a new cluster in an empty directory: the CA that everything trusts, the
controller's identity, and an operator's for use over https. It refuses to
overwrite a cluster.`,
		Example: `  godwit init --data /var/lib/godwit/controller --name prod`,
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			if err := controller.Init(data, name); err != nil {
				return err
			}
			a.printf("cluster %s is in %s\n", name, data)
			a.sayf(`start its controller:  godwit controller --data %s --listen ADDRESS:7443
operate from afar:     godwit get hosts --server https://ADDRESS:7443 --identity %s
`, data, filepath.Join(data, controller.OperatorDir))
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", defaultControllerData, "the controller's directory")
	cmd.Flags().StringVar(&name, "name", "godwit", "the cluster's name: lower-case letters, digits and -")
	return cmd
}
