// Package archtest holds the shape of the module: who may import whom and why
// not, one comment a package, files that can be read in one sitting. Its test
// runs over the whole tree.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Module is the import path of the tree.
const Module = "github.com/sluice-mesh/sluice"

// longest is how many lines of code, without comments and blank ones, a file may have.
const longest = 500

// Check reads every Go file below root, except below testdata, and gives what is
// wrong: "file:line: what: why".
func Check(root string) ([]string, error) {
	c := checker{files: token.NewFileSet(), comments: map[string][]string{}}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			hidden := strings.HasPrefix(d.Name(), ".") && p != root
			if hidden || d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		case filepath.Ext(p) != ".go":
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		return c.file(p, filepath.ToSlash(rel))
	})
	if err != nil {
		return nil, err
	}
	c.packageComments()
	slices.Sort(c.findings)
	return c.findings, nil
}

type checker struct {
	files    *token.FileSet
	comments map[string][]string // by package directory: the files with its comment
	findings []string
}

func (c *checker) find(where, what, why string) {
	c.findings = append(c.findings, where+": "+what+": "+why)
}

// file looks at one file; name is its path within the module.
func (c *checker) file(filename, name string) error {
	text, err := os.ReadFile(filename)
	if err != nil {
		return err
	}
	f, err := parser.ParseFile(c.files, name, text, parser.ParseComments)
	if err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	pkg := path.Dir(name)
	isTest := strings.HasSuffix(name, "_test.go")
	if !isTest {
		if _, seen := c.comments[pkg]; !seen {
			c.comments[pkg] = nil
		}
		if f.Doc != nil {
			c.comments[pkg] = append(c.comments[pkg], name)
		}
		c.imports(pkg, f)
	}
	if n := codeLines(text); n > longest && !ast.IsGenerated(f) {
		c.find(name, fmt.Sprintf("%d lines of code", n), fmt.Sprintf("more than %d is not read in one sitting: split it by noun", longest))
	}
	return nil
}

// imports holds one file's imports against the layers.
func (c *checker) imports(pkg string, f *ast.File) {
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser lets none through
		}
		if why := forbidden(pkg, imported); why != "" {
			c.find(c.files.Position(spec.Pos()).String(), pkg+" imports "+imported, why)
		}
	}
}

func (c *checker) packageComments() {
	for pkg, files := range c.comments {
		switch len(files) {
		case 1:
		case 0:
			if !isGenerated(pkg) {
				c.find(pkg, "no package comment", "say in a sentence what the package is for")
			}
		default:
			slices.Sort(files)
			c.find(pkg, "package comments in "+strings.Join(files, ", "), "keep one, in the file of the package's name")
		}
	}
	for pkg := range c.comments {
		if layerOf(pkg) == nil {
			c.find(pkg, "in no layer", "add it to layers(), with what it may import and why no more")
		}
	}
}

// codeLines counts the lines that have something other than a comment on them.
func codeLines(text []byte) int {
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, 0) // comments are left out
	lines := map[int]bool{}
	for {
		pos, tok, literal := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		if tok == token.SEMICOLON && literal == "\n" {
			continue // put in by the scanner
		}
		first := file.Line(pos)
		for i := range 1 + strings.Count(literal, "\n") {
			lines[first+i] = true
		}
	}
}
