# The main job with few customers: through PostgreSQL, the sandbox and a real
# Tryton and back. `make demo` shows the same to a person.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Cluster;
use SyncExt::MainJob;
use SyncExt::Sandbox;
use SyncExt::Tryton;
use Test::More;

plan skip_all => 'tryton-server is not installed' if !-x SyncExt::Tryton::TRYTOND;

binmode $_, ':encoding(UTF-8)'
  foreach Test::More->builder->output, Test::More->builder->failure_output, Test::More->builder->todo_output;

my $tryton = SyncExt::Tryton->new;
$tryton->start;
my $sandbox = SyncExt::Sandbox->start;
my $node = SyncExt::Cluster->new('main');
$node->safe_psql('postgres', 'CREATE DATABASE hub');

my $job = SyncExt::MainJob->new(
	dsn       => $node->connstr('hub'),
	secrets   => $node->secrets_dir,
	tryton    => $tryton,
	sandbox   => $sandbox,
	customers => 12,
	say       => sub { note($_[0]) },
	check     => sub {
		my ($ok, $claim, $detail) = @_;
		ok($ok, $claim);
		diag($detail) if defined $detail;
		return $ok;
	});
ok(eval { $job->run; 1 }, 'the job runs to its end') or diag($@);
$node->stop;
done_testing();
