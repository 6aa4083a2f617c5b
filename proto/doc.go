// Package proto holds the control API: sluice/v1/*.proto is its manual, the Go
// code in sluice/v1 is made from it by "make proto".
package proto
