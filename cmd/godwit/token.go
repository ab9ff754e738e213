package main

import (
	"time"

	"github.com/spf13/cobra"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

func (a *app) tokenCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "token",
		Short: "Make one-time tokens with which machines and operators join",
	}, a.tokenCreateCommand())
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var (
		role, site, name string
		valid            time.Duration
	)
	cmd := &cobra.Command{
		Use:   "create --role ROLE --name NAME [--site SITE]",
		Short: "Make a token",
		Long: `Make a token that one machine, or one person, can join with, once.

The token also says which controller to trust, so it is all that has to be carried
over. Keep it secret until it is used. It is printed alone, on one line.`,
		Example: `  godwit token create --role host --site west --name west-1
  godwit token create --role edge --site west --name west-edge
  godwit token create --role operator --name alice --valid 10m`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch role {
			case "host", "edge":
				if site == "" {
					return usagef("a %s belongs to a site: --site SITE", role)
				}
			case "operator", "viewer":
			default:
				return usagef("bad --role %q: want host, edge, operator or viewer", role)
			}
			if name == "" {
				return usagef("want a name: --name NAME")
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			token, err := client.CreateToken(cmd.Context(), &godwitv1.CreateTokenRequest{
				Role: role, Site: site, Name: name, ValidSeconds: int64(valid / time.Second),
			})
			if err != nil {
				return err
			}
			a.printf("%s\n", token)
			return nil
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "host, edge, operator or viewer")
	cmd.Flags().StringVar(&site, "site", "", "the site of a host or an edge")
	cmd.Flags().StringVar(&name, "name", "", "the name of the machine or the person")
	cmd.Flags().DurationVar(&valid, "valid", time.Hour, "how long the token can be used")
	return cmd
}
