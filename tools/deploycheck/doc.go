// Package deploycheck holds docker-compose.yml and deploy/Dockerfile against the tools
// that read them. It is a module of its own: the product carries neither.
package deploycheck
