// The same as multi-deployment.yml: an array holds several deployments.
local deployment(name, image, cpu, memory) = {
  kind: 'Deployment',
  spec: {
    name: name,
    image: image,
    replicas: 2,
    resources: { cpu: cpu, memory: memory },
  },
};

[
  deployment('web', 'nginx:alpine', '100m', '128Mi'),
  deployment('api', 'httpd:alpine', '200m', '256Mi'),
]
