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

# The handles that PostgreSQL's test modules put in place take bytes.
sub bytes
{
	my ($text) = @_;
	utf8::encode($text) if utf8::is_utf8($text);
	return $text;
}

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
	patience  => 60,
	say       => sub { note(bytes($_[0])) },
	check     => sub {
		my ($ok, $claim, $detail) = @_;
		ok($ok, bytes($claim));
		diag(bytes($detail)) if defined $detail;
		return $ok;
	});
ok(eval { $job->run; 1 }, 'the job runs to its end') or diag(bytes($@));
$node->stop;
done_testing();
