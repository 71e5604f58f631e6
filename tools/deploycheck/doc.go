// Package deploycheck checks docker-compose.yml and deploy/Dockerfile with the tools that
// read them. It is a separate module, so that the product does not depend on these tools.
package deploycheck
