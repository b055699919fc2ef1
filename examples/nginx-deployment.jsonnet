// The same as nginx-deployment.yml. Needs the extra package: pip install 'kago[jsonnet]'
{
  kind: 'Deployment',
  spec: {
    name: 'nginx',
    image: 'nginx:alpine',
    replicas: 3,
    resources: { cpu: '100m', memory: '128Mi' },
  },
}
